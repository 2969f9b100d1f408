"""The application: names its process, and counts what each has answered."""

import itertools
import os

numbers = itertools.count(1)


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {next(numbers)} {environ['QUERY_STRING']}\n".encode()]
