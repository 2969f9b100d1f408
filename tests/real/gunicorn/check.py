"""gunicorn: the same workers go on counting."""

import itertools

from clients import get, http
from load import Wrong, expect

PORT = 8000
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.counts = {}

    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number, before = next(numbers), dict(self.counts)
        pid, count, query = map(int, get(connection, number))
        expect("answer", number, query)
        self.counts[pid] = max(count, self.counts.get(pid, 0))
        if count <= before.get(pid, 0):
            raise Wrong(f"worker {pid} has counted to {count} after {before[pid]}")

    def begin(self, container):
        self.processes = container.processes("app:application")
        if len(self.processes) != 3:
            raise EOFError

    def holds(self, container):
        expect("processes", self.processes, container.processes("app:application"))
        expect("workers that answered", set(), set(self.counts) - self.processes)
