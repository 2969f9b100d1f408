"""Erlang: the node goes on counting, with its schedulers, its ports and epmd."""

import itertools

from clients import answer, lines
from load import Counters, expect, served

PORT = 7000
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.counters = Counters()

    def connect(self, container):
        return lines(container, PORT)

    def ask(self, file):
        number = next(numbers)
        (echo,) = self.counters.goes_on(lambda: ("the node", *map(int, answer(file, number))))
        expect("answer", number, echo)

    def begin(self, container):
        with self.connect(container) as file:
            self.ask(file)
        self.processes = container.processes("erl") | container.processes("epmd")

    def holds(self, container):
        expect("processes", self.processes, container.processes("erl") | container.processes("epmd"))
        # A move closes the connection between the node and epmd, and the node makes a new one.
        served(container, "the node's name", lambda: self.is_known(container))

    def is_known(self, container):
        if "name service at port" not in container.client("epmd", "-names").communicate()[0]:
            raise EOFError("epmd does not know it")
