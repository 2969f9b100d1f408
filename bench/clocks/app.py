"""Under gunicorn: each request waits, and its answer has the monotonic clock of its process."""

import os
import time


def application(environ, start_response):
    before = time.monotonic()
    time.sleep(0.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {before} {time.monotonic()}\n".encode()]
