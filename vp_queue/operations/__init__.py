"""What an operator does to an installation: set it up, run it under supervisord, look at its health.

Like the tools these answer with JSON-able dicts; unlike them they raise ``VpError``, for the faces to show.
"""
