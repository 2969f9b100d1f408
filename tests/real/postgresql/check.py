"""PostgreSQL: what was committed is there, pgbench's sums agree, and what was open is rolled back or goes on."""

import contextlib
import itertools

from clients import Session
from load import Wrong, expect

numbers = itertools.count(1)
ADDRESS = ["-h", "127.0.0.1"]
PSQL = ["psql", *ADDRESS, "-qAtX", "-v", "ON_ERROR_STOP=1", "postgres"]
# How many different sums there are.
SUMS = """SELECT count(*) FROM (
    SELECT sum(abalance) FROM pgbench_accounts UNION SELECT sum(bbalance) FROM pgbench_branches UNION
    SELECT sum(tbalance) FROM pgbench_tellers UNION SELECT coalesce(sum(delta), 0) FROM pgbench_history) sums"""


def psql(container):
    # 2 is a connection that was lost, or that could not be made.
    return Session(container, PSQL, "\\echo done", lambda status, _: status == 2)


class Check:
    def __init__(self):
        self.committed = 0

    def connect(self, container):
        return psql(container)

    def ask(self, session):
        number = next(numbers)
        session.ask(f"INSERT INTO numbers VALUES ({number})")
        self.committed = max(number, self.committed)
        expect("number", [str(number)], session.ask(f"SELECT * FROM numbers WHERE number = {number}"))

    def begin(self, container):
        with psql(container) as session:
            session.ask("CREATE TABLE IF NOT EXISTS numbers (number bigint PRIMARY KEY)")
        pgbench = container.client("pgbench", *ADDRESS, "-iq", "postgres")
        said = pgbench.communicate()[1]
        if pgbench.returncode:
            raise Wrong(said)
        self.open(container)

    def open(self, container):
        """A transaction, a session that listens, and pgbench, which the next step finds open."""
        self.transaction, self.listener = psql(container), psql(container)
        self.transaction.ask("BEGIN; INSERT INTO numbers VALUES (-1)")
        self.listener.ask("LISTEN channel")
        self.pgbench = container.client("pgbench", *ADDRESS, "-n", "-c", "2", "-T", "1000", "postgres")

    def holds(self, container):
        with psql(container) as session:
            expect("uncommitted", ["0"], session.ask("SELECT count(*) FROM numbers WHERE number < 0"))
            committed, there = self.committed, int(session.ask("SELECT max(number) FROM numbers")[0])
            if there < committed:
                raise Wrong(f"{there} is there, and {committed} was committed")
            self.go_on(session)
            self.pgbench.kill()
            self.pgbench.communicate()
            expect("pgbench's sums", ["1"], session.ask(SUMS))
            session.ask("CHECKPOINT")
        self.open(container)

    def go_on(self, session):
        """The sessions go on, unless their connections were closed."""
        with contextlib.suppress(EOFError), self.transaction:
            expect("its own", ["1"], self.transaction.ask("SELECT count(*) FROM numbers WHERE number < 0"))
            self.transaction.ask("ROLLBACK")
        with contextlib.suppress(EOFError), self.listener:
            session.ask("NOTIFY channel, 'called'")
            heard = " ".join(self.listener.ask("SELECT 1"))
            if "called" not in heard:
                raise Wrong(f"the listener heard {heard!r}")
