"""HTTP/1.1 on the event loop's own thread: what clients send becomes calls, and calls are answered on their sockets.

A request is read, parsed, handled and answered in one go, without a second thread, a task or a turn of the loop in
between.
`httptools` parses, as it does for uvicorn and others.
"""
