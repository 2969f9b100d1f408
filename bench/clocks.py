#!/usr/bin/env python3
"""clocks.py OPT [--minutes N] [--every SECONDS] [PROGRAM…]: moves ten programs that wait for N minutes, all at once and each
once a minute, over hosts that booted later and earlier. Prints, for each program, its moves, the waits that ended, the
waits that stuck, the reads of a clock that went back, and whether it has ended.

Each waits again and again in the ways of its language (clocks/), or in the one for which its clients ask. A wait that should
take 0.2 seconds and has not ended in 20 is stuck. OPT is the folder with freeze and criu. Needs root. Exits with 1 if a wait
stuck, a read went back, or a program ended.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests/real"))

from clients import get, http  # noqa: E402
from container import CHECKOUT, Application, Container, Failed, sandbox  # noqa: E402
from load import CLOSED, Wrong, served  # noqa: E402

PACKAGES = "default-jdk-headless erlang-base gunicorn nodejs postgresql prometheus python3 redis-server"
# Hours that the hosts of one container after the other have been up for: later, later, earlier, later, earlier.
HOSTS = (30, 20, 10, 25, 0)
STUCK = 20
NO_MOVE = 2


class Stuck(Exception):
    """A wait has not ended."""


def line_of(container, question=b""):
    with container.connect(7000) as socket, socket.makefile("rb") as file:
        socket.settimeout(STUCK)
        socket.sendall(question)
        return file.readline().decode()


def counted_words(line):
    """The numbers of a line such as `WAY=N WAY=N`."""
    words = (word.split("=") for word in line.split())
    return {way: float(number) if "." in number else int(number) for way, number in words}


class Counted:
    """Each way has ended a wait since the last look, or does so in time."""

    def __init__(self, command):
        self.command, self.before = command, {}

    def look(self, container):
        until = time.monotonic() + STUCK
        while True:
            counts = counted_words(line_of(container))
            back = counts.pop("back")
            stuck = [way for way, count in counts.items() if count <= self.before.get(way, 0)]
            if not stuck:
                break
            if time.monotonic() > until:
                raise Stuck(", ".join(stuck))
            time.sleep(0.5)
        ended = sum(counts.values()) - sum(self.before.values())
        self.before = counts
        return ended, back


class Asked:
    """A client asks for a wait, and for a clock where there is one. `ask` returns how often it has gone back."""

    def __init__(self, command, ask):
        self.command, self.ask, self.back = command, ask, 0

    def look(self, container):
        try:
            self.back += self.ask(container) or 0
        except TimeoutError as error:
            raise Stuck("the one that was asked for") from error
        return 1, self.back


def ask_service(container):
    """The service of the tests, which looks itself (tests/services/clock_waits.c)."""
    answer = line_of(container, b"verify\n")
    if not answer.startswith("ok"):
        raise Stuck(answer.removeprefix("error ").strip()) if "end" in answer else Failed(answer)


def ask_redis(container):
    with container.connect(6379) as socket:
        socket.settimeout(STUCK)
        socket.sendall(b"BLPOP none 0.2\r\n")
        if not socket.recv(100).startswith(b"*-1"):
            raise Failed("BLPOP")


def ask_postgresql(container):
    client = container.client("psql", "-h", "/tmp", "-d", "postgres", "-c", "SET statement_timeout = 200", "-c", "SELECT pg_sleep(3600)")
    try:
        _, said = client.communicate(timeout=STUCK)
    except subprocess.TimeoutExpired as error:
        client.kill()
        raise TimeoutError from error
    finally:
        container.clients.remove(client)
    if "statement timeout" not in said:
        raise ConnectionError(said)


class Gunicorn:
    def __init__(self):
        self.clocks = {}

    def __call__(self, container):
        with http(container, 8000) as connection:
            connection.timeout = STUCK
            pid, before, after = get(connection, 0)
        last, self.clocks[pid] = self.clocks.get(pid, 0), float(after)
        return (float(before) < last) + (float(after) < float(before))


class Prometheus:
    """Its own scrapes are counted by a ticker."""

    def __init__(self):
        self.scrapes = 0

    def __call__(self, container):
        until = time.monotonic() + STUCK
        while time.monotonic() < until:
            with http(container, 9090) as connection:
                connection.request("GET", "/metrics")
                text = connection.getresponse().read().decode()
            name = "prometheus_target_interval_length_seconds_count"
            scrapes = sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(name))
            if scrapes > self.scrapes:
                self.scrapes = scrapes
                return
            time.sleep(0.5)
        raise TimeoutError


def programs():
    return {
        "c": Asked("/programs/service clock-waits", ask_service),
        "python": Counted("python3 /clocks/waits.py"),
        "node": Counted("node /clocks/waits.js"),
        "java": Counted("java /clocks/Waits.java"),
        "go": Counted("/built/waits"),
        "erlang": Counted("escript /clocks/waits.escript"),
        "redis": Asked("redis-server --dir /data --save ''", ask_redis),
        "postgresql": Asked("sh -c 'initdb -D /data/pg >/dev/null && exec postgres -D /data/pg -k /tmp'", ask_postgresql),
        "gunicorn": Asked("gunicorn --workers 2 --bind 127.0.0.1:8000 --chdir /clocks app:application", Gunicorn()),
        "prometheus": Asked(
            "prometheus --config.file=/clocks/prometheus.yml --storage.tsdb.path=/data/prometheus", Prometheus()
        ),
    }


class Run(threading.Thread):
    """One program: looks again and again, and moves."""

    def __init__(self, name, program, options, hosts=HOSTS):
        super().__init__(name=name)
        self.program, self.options, self.hosts = program, options, hosts
        self.moves = self.ended = self.stuck = self.back = 0
        self.fault = self.story = ""

    def run(self):
        with tempfile.TemporaryDirectory(prefix=f"freeze-clocks-{self.name}.", dir="/var/tmp") as work:
            os.chmod(work, 0o755)
            try:
                self.journey(Path(work))
            except (Failed, Stuck, Wrong, *CLOSED) as error:
                self.fault = " ".join(str(error).split()) or repr(error)

    def container(self, application):
        hours = self.hosts[application.started % len(self.hosts)]
        application.started += 1
        name = f"clocks-{self.name}-{application.started}"
        binds = [f"{HERE}/clocks:/clocks:ro", f"{self.options.services}:/programs:ro"]
        words = [word for bind in binds for word in ("--bind", bind)]
        return Container(application, name, self.options.root, words, hours)

    def application(self, work):
        command = f"export HOME=/data PATH=$PATH:/usr/lib/postgresql/15/bin; exec freeze run -- {self.program.command}"
        application = Application(self.name, self.options.opt, command, work)
        if "/built/" in command:
            source, built = HERE / "clocks/waits.go", work / "built"
            flags = {"GOCACHE": str(built / "cache"), "CGO_ENABLED": "0"}
            subprocess.run(["go", "build", "-o", built / "waits", source], env=os.environ | flags, check=True)
        return application

    def journey(self, work):
        application = self.application(work)
        container = self.container(application)
        try:
            container.running()
            served(container, "the first answer", lambda: self.program.look(container))
            while time.monotonic() < self.options.until:
                self.watch(container)
                container.checkpoint()
                container.remove()
                container = self.container(application)
                container.running()
                self.moves += 1
            self.look(container)
        finally:
            self.story = container.story()
            container.remove()

    def watch(self, container):
        """Looks until it is time for the next move."""
        until = time.monotonic() + self.options.every
        while time.monotonic() < until:
            self.look(container)
            time.sleep(NO_MOVE)

    def look(self, container):
        """A connection may be closed by a move, and a program may still begin; nothing else."""
        until = time.monotonic() + 60
        while True:
            try:
                ended, self.back = self.program.look(container)
                self.ended += ended
                return
            except Stuck:
                self.stuck += 1
                raise
            except CLOSED:
                if container.has_ended() or time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def line(self):
        cells = (self.name, self.moves, self.ended, self.stuck, self.back, self.fault or "no")
        return f"| {' | '.join(map(str, cells))} |"


def root():
    return said("integration/sandbox/root", "with", "clocks", *PACKAGES.split())


def services():
    return Path(said("tests/services/build")).parent


def said(*command):
    return subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def main():
    all_programs = programs()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("opt", type=lambda folder: Path(folder).resolve())
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS", help="between two moves (60)")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=" ".join(all_programs))
    options = parser.parse_args()
    options.root, options.services = root(), services()
    options.until = time.monotonic() + 60 * options.minutes
    sandbox("clean", "clocks-")
    runs = [Run(name, all_programs[name], options) for name in options.programs or all_programs]
    for run in runs:
        run.start()
    head = "| program | moves | waits ended | waits stuck | reads that went back | ended |"
    while any(run.is_alive() for run in runs):
        time.sleep(30)
        print(time.strftime("%H:%M:%S"), "; ".join(f"{run.name} {run.moves}/{run.ended}" for run in runs), flush=True)
    for run in runs:
        if run.fault:
            print(f"{run.name}:\n{run.story}")
    print("", head, "|---|" + "---:|" * 4 + "---|", *(run.line() for run in runs), sep="\n")
    return any(run.fault or run.stuck or run.back for run in runs)


if __name__ == "__main__":
    sys.exit(main())
