"""multiprocessing: the same workers answer, with the totals and the memory that they share."""

import itertools

from clients import answer, lines
from load import Wrong, expect

PORT = 7000
METHODS = 3
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.pids, self.asked = None, 0

    def connect(self, container):
        return lines(container, PORT)

    def ask(self, file):
        number, before = next(numbers), self.asked
        *of_workers, of_pool = map(int, answer(file, number))
        results, pids, totals, memory = (of_workers[i::4] for i in range(4))
        expect("results", [number * number] * (METHODS + 1), [*results, of_pool])
        expect("shared memory", [number % 251] * METHODS, memory)
        expect("totals", [totals[0]] * METHODS, totals)
        self.pids = self.pids or pids
        expect("workers", self.pids, pids)
        if totals[0] <= before:
            raise Wrong(f"workers have counted to {totals[0]} after {before}")
        self.asked = max(totals[0], self.asked)

    def begin(self, container):
        with self.connect(container) as file:
            self.ask(file)

    def holds(self, container):
        pass
