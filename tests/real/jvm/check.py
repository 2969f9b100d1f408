"""A JVM to which jcmd has attached: its threads and timers go on, and jcmd attaches again."""

import itertools
import time

from clients import get, http
from load import Counters, Wrong, expect

PORT = 8000
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.counters = Counters()

    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number = next(numbers)
        ticks, query = self.counters.goes_on(lambda: ("Java", *map(int, get(connection, number))))
        expect("answer", number, query)
        return ticks

    def begin(self, container):
        with self.connect(container) as connection:
            self.ask(connection)
        self.jcmd(container)

    def jcmd(self, container):
        (pid,) = container.processes("App.java")
        said = container.exec("jcmd", pid, "VM.version").stdout
        if "JDK" not in said:
            raise Wrong(f"jcmd says {said}")

    def holds(self, container):
        with self.connect(container) as connection:
            before, until = self.ask(connection), time.monotonic() + 60
            while self.ask(connection) <= before:
                if time.monotonic() > until:
                    raise Wrong("the timer stands still")
        self.jcmd(container)
