"""Clients of services: HTTP, lines over TCP, and the command-line client of a database."""

import contextlib
import itertools
from http.client import HTTPConnection

from load import Wrong, expect


def http(container, port):
    connection = HTTPConnection("127.0.0.1", port)
    connection.sock = container.connect(port)
    return contextlib.closing(connection)


def get(connection, query, headers=()):
    """The words of the answer to a query."""
    connection.request("GET", f"/?{query}", headers=dict(headers))
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise Wrong(f"status {answer.status}: {text}")
    return text.split()


@contextlib.contextmanager
def lines(container, port):
    with container.connect(port) as connection, connection.makefile("rw") as file:
        yield file


def answer(file, question):
    """The words of the line that answers this one."""
    file.write(f"{question}\n")
    file.flush()
    line = file.readline()
    if not line.endswith("\n"):
        raise EOFError
    return line.split()


class Session:
    """A database's own client, which stays connected.

    `mark` is a statement that prints `done`; `is_lost` tells a lost connection by the client's status and words.
    """

    def __init__(self, container, command, mark, is_lost):
        self.mark, self.is_lost = mark, is_lost
        self.client = container.client(*command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.kill()
        self.client.communicate()

    def ask(self, statements):
        """The lines that the statements print."""
        with contextlib.suppress(BrokenPipeError):
            self.client.stdin.write(f"{statements};\n{self.mark}\n")
            self.client.stdin.flush()
        lines = []
        while (line := self.client.stdout.readline()) != "done\n":
            if not line:
                self.ended()
            lines.append(line.rstrip("\n"))
        return lines

    def ended(self):
        status, said = self.client.wait(), self.client.stderr.read()
        # It is killed with its container, and nsenter fails while there is none.
        if status < 0 or "nsenter" in said or self.is_lost(status, said):
            raise EOFError(said)
        raise Wrong(said)


class Numbers:
    """A table `numbers` of a database, to which clients commit numbers, and an open transaction with a negative one."""

    numbers = itertools.count(1)

    def __init__(self):
        self.committed = 0

    def commit(self, session):
        number = next(self.numbers)
        session.ask(f"INSERT INTO numbers VALUES ({number})")
        self.committed = max(number, self.committed)
        expect("number", [str(number)], session.ask(f"SELECT * FROM numbers WHERE number = {number}"))

    def open(self, transaction):
        """A transaction that the next step finds open."""
        self.transaction = transaction
        self.transaction.ask("BEGIN; INSERT INTO numbers VALUES (-1)")

    def are_there(self, session):
        """All that was committed, and nothing else."""
        expect("uncommitted", ["0"], session.ask("SELECT count(*) FROM numbers WHERE number < 0"))
        committed, there = self.committed, int(session.ask("SELECT max(number) FROM numbers")[0])
        if there < committed:
            raise Wrong(f"{there} is there, and {committed} was committed")

    def roll_back(self):
        """The transaction goes on, unless its connection was closed."""
        with contextlib.suppress(EOFError), self.transaction:
            expect("its own", ["1"], self.transaction.ask("SELECT count(*) FROM numbers WHERE number < 0"))
            self.transaction.ask("ROLLBACK")
