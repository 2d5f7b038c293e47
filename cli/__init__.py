"""The ``vp`` command. No logic here: each command calls a tool or a use case and prints what it answers."""
