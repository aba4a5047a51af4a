"""An HTTP/1.1 server on the event loop's own thread.

A request is read, parsed, handled and answered in one step, without a second thread, a task or another iteration of
the loop. `httptools` parses, as it does for uvicorn and others.
"""
