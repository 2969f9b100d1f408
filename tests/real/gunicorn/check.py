"""gunicorn: the same workers go on counting."""

import itertools

from clients import get, http
from load import Counters, expect

PORT = 8000
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.workers = Counters()

    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number = next(numbers)
        expect("answer", [number], self.workers.goes_on(lambda: map(int, get(connection, number))))

    def begin(self, container):
        self.processes = container.processes("app:application")
        if len(self.processes) != 3:
            raise EOFError

    def holds(self, container):
        expect("processes", self.processes, container.processes("app:application"))
        expect("workers that answered", set(), set(self.workers.counts) - self.processes)
