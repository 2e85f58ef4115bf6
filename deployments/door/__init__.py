"""What stands before the application: connections, heads and bodies are held to bounds here."""

CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "symmoe.deployments.door.proxy:middlewares"}
"""The environment in which Ray Serve's proxies put the door before themselves."""
