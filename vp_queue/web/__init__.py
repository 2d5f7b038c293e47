"""The operator's face: the HTTP API and the dashboard, over the tools and use cases that every face calls."""
