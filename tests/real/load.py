"""Clients that ask a service without a pause, over all its moves.

A request is served, or its connection is closed and the client connects again. What else comes back is wrong.
"""

import http.client
import threading
import time

CLIENTS = 2
# After 1000 requests nginx closes a connection of itself.
REQUESTS = 500
# How long an answer is waited for, on a slow and busy machine.
PATIENCE = 60
CLOSED = (OSError, EOFError, http.client.HTTPException)


class Wrong(Exception):
    """The service answered, but not what it should."""


def expect(what, right, got):
    if got != right:
        raise Wrong(f"{what}: {got!r} instead of {right!r}")


def served(container, what, ask):
    """Asks until the connection is not closed: the service may still begin, or have closed what was open."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except CLOSED as error:
            if container.has_ended() or time.monotonic() > until:
                why = "the container has ended" if container.has_ended() else error
                raise Wrong(f"{what} is missing: {why}") from error
            time.sleep(0.05)


class Counters:
    """What each process or session of the service counts. It only grows, whichever client asks."""

    def __init__(self):
        self.counts = {}

    def goes_on(self, answer):
        """Calls `answer`, which gives whose count it is, the count, and the rest of what was said. Returns the rest."""
        before = dict(self.counts)
        who, count, *rest = answer()
        self.counts[who] = max(count, self.counts.get(who, 0))
        if count <= before.get(who, 0):
            raise Wrong(f"the counter of {who} shows {count} after {before.get(who, 0)}")
        return rest


class Load:
    def __init__(self, check):
        self.check, self.container = check, None
        self.served, self.closed, self.wrong = 0, 0, []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(CLIENTS)]

    def begin(self, container):
        self.container = container
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopping.is_set():
            try:
                with self.check.connect(self.container) as connection:
                    for _ in range(REQUESTS):
                        self.check.ask(connection)
                        self.served += 1
                        time.sleep(0.005)
                        if self.stopping.is_set():
                            break
            except CLOSED:
                self.closed += 1
                time.sleep(0.02)
            except Exception as error:  # noqa: BLE001, a client that ended would be missed by nobody
                self.wrong.append(f"{type(error).__name__}: {error}" if not isinstance(error, Wrong) else str(error))
                time.sleep(0.1)

    def goes_on(self, seconds):
        """Lets the clients ask for so long, and until some are served. None may be answered wrongly."""
        enough, begun = self.served + 5 * CLIENTS, time.monotonic()
        while not self.wrong and (self.served < enough or time.monotonic() < begun + seconds):
            if self.container.has_ended() or time.monotonic() > begun + seconds + PATIENCE:
                raise Wrong("the container has ended" if self.container.has_ended() else "clients are not served")
            time.sleep(0.02)
        if self.wrong:
            raise Wrong(self.wrong[0])

    def end(self):
        self.stopping.set()
        for thread in self.threads:
            if thread.ident:
                thread.join()
