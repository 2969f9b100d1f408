"""node: both workers of the cluster, their threads and their children go on."""

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
        of_thread, of_child, query = self.workers.goes_on(lambda: map(int, get(connection, number)))
        expect("answer", [number, number**2, number**2], [query, of_thread, of_child])

    def begin(self, container):
        with self.connect(container) as connection:
            self.ask(connection)
        self.processes = container.processes("node")
        if len(self.processes) != 3:
            raise EOFError

    def holds(self, container):
        expect("processes", self.processes, container.processes("node"))
        expect("workers that answered", set(), set(self.workers.counts) - self.processes)
