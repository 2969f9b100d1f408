"""MariaDB: what was committed is there, and what was open is rolled back or goes on."""

import contextlib
import itertools
import re

from clients import Session
from load import Wrong, expect

numbers = itertools.count(1)
CLIENT = ["mariadb", "-h127.0.0.1", "-uroot", "--batch", "--unbuffered", "--skip-column-names", "--skip-reconnect"]
# Numbers of errors from 2000 on are the client's: no connection, or a lost one. 1053: the server shuts down.
LOST = re.compile(r"ERROR (2\d{3}|1053) ")


def mariadb(container, *database):
    return Session(container, [*CLIENT, *database], "SELECT 'done';", lambda _, said: LOST.search(said))


class Check:
    def __init__(self):
        self.committed = 0

    def connect(self, container):
        return mariadb(container, "shop")

    def ask(self, session):
        number = next(numbers)
        session.ask(f"INSERT INTO numbers VALUES ({number})")
        self.committed = max(number, self.committed)
        expect("number", [str(number)], session.ask(f"SELECT * FROM numbers WHERE number = {number}"))

    def begin(self, container):
        with mariadb(container) as session:
            session.ask("CREATE DATABASE shop; CREATE TABLE shop.numbers (number BIGINT PRIMARY KEY) ENGINE=InnoDB")
            session.ask("CREATE TABLE shop.closed (number BIGINT) ENGINE=Aria; INSERT INTO shop.closed VALUES (1)")
        self.open(container)

    def open(self, container):
        """A transaction that the next step finds open."""
        self.transaction = mariadb(container, "shop")
        self.transaction.ask("BEGIN; INSERT INTO numbers VALUES (-1)")

    def holds(self, container):
        with mariadb(container, "shop") as session:
            expect("uncommitted", ["0"], session.ask("SELECT count(*) FROM numbers WHERE number < 0"))
            committed, there = self.committed, int(session.ask("SELECT max(number) FROM numbers")[0])
            if there < committed:
                raise Wrong(f"{there} is there, and {committed} was committed")
            with contextlib.suppress(EOFError), self.transaction:
                expect("its own", ["1"], self.transaction.ask("SELECT count(*) FROM numbers WHERE number < 0"))
                self.transaction.ask("ROLLBACK")
            expect("a closed table", ["1"], session.ask("FLUSH TABLES; SELECT count(*) FROM closed"))
            expect("check", ["OK", "OK"], [line.split("\t")[-1] for line in session.ask("CHECK TABLE numbers, closed")])
        self.open(container)
