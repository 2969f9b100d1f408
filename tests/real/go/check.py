"""A static Go program: what it has mapped of files is there, in the file as well."""

import itertools

from clients import get, http
from load import Counters, Wrong, expect

PORT = 8000
SIZE = 1 << 20
numbers = itertools.count(1)


class Check:
    # It needs nothing of its image.
    ANOTHER = "debian-next"

    def __init__(self):
        self.counters = Counters()

    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number = next(numbers)
        total, query = self.counters.goes_on(lambda: ("Go", *map(int, get(connection, number))))
        expect("answer", [number, SIZE // 256 * sum(range(256))], [query, total])

    def begin(self, container):
        with self.connect(container) as connection:
            self.ask(connection)

    def holds(self, container):
        before = self.counters.counts["Go"]
        with open(container.path("/data/shared"), "rb") as file:
            file.seek(SIZE // 2)
            there = int.from_bytes(file.read(8), "little")
        if there < before:
            raise Wrong(f"the file has counted to {there} after {before}")
