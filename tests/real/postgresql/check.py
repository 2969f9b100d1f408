"""PostgreSQL: what was committed is there, pgbench's sums agree, and what was open is rolled back or goes on."""

import contextlib
import time

from clients import Numbers, Session
from load import PATIENCE, Wrong, expect

ADDRESS = ["-h", "127.0.0.1"]
PSQL = ["psql", *ADDRESS, "-qAtX", "-v", "ON_ERROR_STOP=1", "postgres"]
# How many different sums there are.
SUMS = """SELECT count(*) FROM (
    SELECT sum(abalance) FROM pgbench_accounts UNION SELECT sum(bbalance) FROM pgbench_branches UNION
    SELECT sum(tbalance) FROM pgbench_tellers UNION SELECT coalesce(sum(delta), 0) FROM pgbench_history) sums"""

REPLICATION = "SELECT pid, backend_start FROM pg_stat_replication WHERE application_name = 'walreceiver'"


def psql(container, port=5432):
    # 2 is a connection that was lost, or that could not be made.
    return Session(container, [*PSQL, "-p", str(port)], "\\echo done", lambda status, _: status == 2)


class Check:
    def __init__(self):
        self.numbers, self.replication, self.has_standby = Numbers(), [], False

    def connect(self, container):
        return psql(container)

    def ask(self, session):
        self.numbers.commit(session)

    def begin(self, container):
        with psql(container) as session:
            session.ask("CREATE TABLE IF NOT EXISTS numbers (number bigint PRIMARY KEY)")
            self.has_standby = bool(container.processes("/data/standby"))
            self.replicates(container, session)
        pgbench = container.client("pgbench", *ADDRESS, "-iq", "postgres")
        said = pgbench.communicate()[1]
        if pgbench.returncode:
            raise Wrong(said)
        self.open(container)

    def open(self, container):
        """A transaction, a session that listens, and pgbench, which the next step finds open."""
        self.numbers.open(psql(container))
        self.listener = psql(container)
        self.listener.ask("LISTEN channel")
        self.pgbench = container.client("pgbench", *ADDRESS, "-n", "-c", "2", "-T", "1000", "postgres")

    def holds(self, container):
        with psql(container) as session:
            self.numbers.are_there(session)
            self.go_on(session)
            self.pgbench.kill()
            self.pgbench.communicate()
            expect("pgbench's sums", ["1"], session.ask(SUMS))
            session.ask("CHECKPOINT")
            self.replicates(container, session)
        self.open(container)

    def go_on(self, session):
        """The sessions go on, unless their connections were closed."""
        self.numbers.roll_back()
        with contextlib.suppress(EOFError), self.listener:
            session.ask("NOTIFY channel, 'called'")
            heard = " ".join(self.listener.ask("SELECT 1"))
            if "called" not in heard:
                raise Wrong(f"the listener heard {heard!r}")

    def replicates(self, container, session):
        """The standby, if there is one, follows on the connection that it had at the beginning."""
        if not self.has_standby:
            return
        connection = session.ask(REPLICATION)
        self.replication = self.replication or connection
        if not self.replication:
            raise EOFError("there is no standby yet")
        expect("replication", self.replication, connection)
        (position,) = session.ask("SELECT pg_current_wal_lsn()")
        with psql(container, port=5433) as standby:
            until = time.monotonic() + PATIENCE
            while standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != ["t"]:
                if time.monotonic() > until:
                    raise Wrong("the standby does not follow")
                time.sleep(0.05)
