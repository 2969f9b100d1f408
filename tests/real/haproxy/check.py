"""HAProxy: one process serves both ends, and its stats socket goes on counting."""

import itertools
import socket

from clients import http
from load import Wrong, expect

PORT = 8080
numbers = itertools.count(1)


def stats(container, command):
    """What the stats socket answers."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(10)
        admin.connect(str(container.path("/tmp/admin.sock")))
        admin.sendall(command.encode() + b"\n")
        with admin.makefile() as answer:
            return answer.read()


def info(container):
    return dict(line.split(": ", 1) for line in stats(container, "show info").splitlines() if ": " in line)


class Check:
    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number = next(numbers)
        connection.request("GET", f"/?{number}")
        answer = connection.getresponse()
        text = answer.read().decode()
        # 502 and 503: the connection to the server behind it was closed.
        if answer.status in (502, 503):
            raise EOFError
        expect("answer", (200, str(number)), (answer.status, text))

    def begin(self, container):
        with self.connect(container) as connection:
            self.ask(connection)
        self.processes, self.served = container.processes("haproxy"), 0
        expect("disabled", "", stats(container, "disable server servers/second").strip())

    def holds(self, container):
        expect("processes", self.processes, container.processes("haproxy"))
        served = int(info(container)["CumReq"])
        if served <= self.served:
            raise Wrong(f"it has counted {served} requests, and {self.served} before")
        self.served = served
        servers = [line.split() for line in stats(container, "show servers state").splitlines()[2:] if line.strip()]
        expect("administrative states", {"first": "0", "second": "1"}, {server[3]: server[6] for server in servers})
