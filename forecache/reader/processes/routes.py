"""The reader's routes as HTTP names them, by their names in the metrics."""

HTTP_ROUTES = {
    "one": "/v1/{pipeline}/{key}",
    "many": "/v1/{pipeline}",
    "pipeline": "/v1/{pipeline}",
    "versions": "/versions/{pipeline}",
    "pipelines": "/v1",
    "feast": "/get-online-features",
    "healthz": "/healthz",
    "readyz": "/readyz",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
    "other": "",
    "realtime": "/v1/{model}",
    "status": "/status",
}
"""Path template of each route by its name in the metrics; "" for unknown paths."""
HTTP_METHODS = {
    **dict.fromkeys(HTTP_ROUTES, "GET"),
    **dict.fromkeys(("many", "feast", "realtime"), "POST"),
    "other": "_OTHER",
}
"""The method of each route; `_OTHER` if there is none, as in OpenTelemetry's semantic conventions."""
