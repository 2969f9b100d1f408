#!/usr/bin/env python3
"""live.py OPT [--memory MIB,…] [--changes PERCENT] [--reps N]: how long a client of a service gets no answer while the service
is handed over to a standby. The service has so much memory, of which 1 % is written in a second. Prints, for each size, the
median of N times (5): the client's gap, the time in which the service stood still for freeze, what the last step has read,
and the rounds. OPT is the folder with freeze and criu. Needs root.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from clocks import HERE, Application, Container, said, sandbox

PORT = 7000
# After the service has begun to write.
SETTLES = 3


def answer(container):
    """Asks on a connection of its own, as a client does that connects again."""
    with container.connect(PORT) as socket, socket.makefile("rb") as file:
        socket.sendall(b"get\n")
        return file.readline()


class Client(threading.Thread):
    """Asks one container all the time. Knows when the first and the last answer came."""

    def __init__(self, container, until):
        super().__init__(daemon=True)
        self.container, self.until, self.first, self.last = container, until, None, None

    def run(self):
        while not self.until(self):
            try:
                if answer(self.container):
                    self.last = time.monotonic()
                    self.first = self.first or self.last
            except OSError:
                pass
            time.sleep(0.001)


def moved(opt, root, mib, changes):
    """One move: the gap in ms, and what freeze tells."""
    with tempfile.TemporaryDirectory(prefix="freeze-live.", dir="/dev/shm") as folder:
        work = Path(folder)
        work.chmod(0o755)
        rate = mib * changes / 100
        command = f"exec freeze run -- /built/service --listen {PORT} --memory {mib} --dirty {rate:g}"
        application = Application("live", opt, command, work)
        build = ["cc", "-O2", "-static", "-pthread", "-o", work / "built/service", HERE / "service.c", "-lm"]
        subprocess.run(build, check=True)
        source = Container(application, "live-source", root, (), 0)
        standby = ("--env", "FREEZE_STANDBY=1", "--env", "FREEZE_STANDBY_POLL=100ms")
        target = Container(application, "live-target", root, standby, 0)
        try:
            source.running()
            time.sleep(SETTLES)
            over = threading.Event()
            clients = [Client(source, lambda _: over.is_set()), Client(target, lambda client: client.first)]
            [client.start() for client in clients]
            done = source.exec("/opt/freeze/freeze", "checkpoint", "--handover", "--json")
            if done.returncode:
                sys.exit(done.stderr + done.stdout)
            clients[1].join(60)
            over.set()
            events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
            rounds = [event for event in events if event["event"] == "round"]
            report = json.loads(done.stdout)
            status = json.loads(target.exec("/opt/freeze/freeze", "status", "--json").stdout)
            return {
                "gap, ms": (clients[1].first - clients[0].last) * 1000,
                "frozen, ms": report["frozen_ms"],
                "restore, ms": status["restore"]["total_ms"],
                "new in the last step, MiB": report["new"] / 2**20,
                "rounds": len(rounds),
                "all of it, ms": report["total_ms"],
            }
        finally:
            source.remove()
            target.remove()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("opt", type=Path)
    parser.add_argument("--memory", default="0,128,512,2048")
    parser.add_argument("--changes", type=float, default=1)
    parser.add_argument("--reps", type=int, default=5)
    arguments = parser.parse_args()
    root = said("integration/sandbox/root", "busybox")
    sandbox("clean", "live-")
    head = None
    for mib in map(int, arguments.memory.split(",")):
        results = [moved(arguments.opt.resolve(), root, mib, arguments.changes) for _ in range(arguments.reps)]
        if not head:
            head = list(results[0])
            print(f"| MiB | {' | '.join(head)} |", "|---|" + "---:|" * len(head), sep="\n")
        cells = (f"{statistics.median(one[column] for one in results):.0f}" for column in head)
        print(f"| {mib} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
