"""MariaDB: what was committed is there, and what was open is rolled back or goes on."""

import re

from clients import Numbers, Session
from load import expect

CLIENT = ["mariadb", "-h127.0.0.1", "-uroot", "--batch", "--unbuffered", "--skip-column-names", "--skip-reconnect"]
# Numbers of errors from 2000 on are the client's: no connection, or a lost one. 1053: the server shuts down.
LOST = re.compile(r"ERROR (2\d{3}|1053) ")


def mariadb(container, *database):
    return Session(container, [*CLIENT, *database], "SELECT 'done';", lambda _, said: LOST.search(said))


class Check:
    def __init__(self):
        self.numbers = Numbers()

    def connect(self, container):
        return mariadb(container, "shop")

    def ask(self, session):
        self.numbers.commit(session)

    def begin(self, container):
        with mariadb(container) as session:
            session.ask("CREATE DATABASE shop; CREATE TABLE shop.numbers (number BIGINT PRIMARY KEY) ENGINE=InnoDB")
            session.ask("CREATE TABLE shop.closed (number BIGINT) ENGINE=Aria; INSERT INTO shop.closed VALUES (1)")
        self.numbers.open(mariadb(container, "shop"))

    def holds(self, container):
        with mariadb(container, "shop") as session:
            self.numbers.are_there(session)
            self.numbers.roll_back()
            expect("a closed table", ["1"], session.ask("FLUSH TABLES; SELECT count(*) FROM closed"))
            expect("check", ["OK", "OK"], [line.split("\t")[-1] for line in session.ask("CHECK TABLE numbers, closed")])
        self.numbers.open(mariadb(container, "shop"))
