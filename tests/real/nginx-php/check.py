"""nginx and php-fpm: the same processes go on, and sessions, which are closed files, are found again."""

import itertools
import threading
import time

from clients import get, http
from load import Counters, expect

PORT = 8080
numbers = itertools.count(1)


class Check:
    def __init__(self):
        self.sessions = Counters()

    def connect(self, container):
        return http(container, PORT)

    def ask(self, connection):
        number, session = next(numbers), f"client{threading.get_ident()}"
        # A request whose connection was closed may have been counted.
        words = self.sessions.goes_on(
            lambda: (session, *map(int, get(connection, number, {"Cookie": f"PHPSESSID={session}"})))
        )
        expect("answer", [number], words)

    def begin(self, container):
        if not container.path("/tmp/php-fpm.sock").exists():
            raise EOFError
        with self.connect(container) as connection:
            self.ask(connection)
        # As a daemon, nginx begins with processes that end.
        self.nginx = None
        while self.nginx != (now := container.processes("nginx")):
            self.nginx = now
            time.sleep(0.5)

    def holds(self, container):
        expect("nginx's processes", self.nginx, container.processes("nginx"))
        with self.connect(container) as connection:
            self.ask(connection)
        if container.path("/tmp/supervisord.pid").exists():
            supervisorctl = container.client("supervisorctl", "-c", "/services/nginx-php/supervisord.conf", "status")
            expect("programs that run", 2, supervisorctl.communicate()[0].count("RUNNING"))
