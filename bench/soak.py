#!/usr/bin/env python3
"""Takes one service through a thousand generations, and shows what must not grow.

    make build && bench/soak.py [--generations N] [--opt DIR]     # as root; 34 minutes; prints a table

In each turn the service moves 25 times, and its last container then commits 100 generations by `--every 2s`. Every tenth
generation a prune follows. The service has memory that it keeps changing, processes, threads and files, and checks itself
after each move.
A row shows, at that generation:

- of init: its anonymous memory and its descriptors
- PIDs: how many a checkpoint by `--every` spends, and the newest one of the container
- the store's objects and size, after a prune
- the median and the least, in ms: how long the latest 25 checkpoints froze the service, how long they and the latest 25
  restores took
"""
import argparse
import collections
import ctypes
import json
import os
import socket
import statistics
import subprocess
import time

import pids

MOVES, TURN = 25, 125
ROWS = (10, 250, 500, 750, 1000)
COLUMNS = ("generation", "init, KiB", "descriptors", "PIDs each", "newest PID", "objects", "store, KiB", "frozen", "checkpoint", "restore")
PORT = 7000
SERVICE = ("--listen", str(PORT), "--memory", "16", "--processes", "3", "--threads", "4", "--dirty", "1", "--files", "20")
# Every so many generations. The grace time is longer than any checkpoint here takes.
PRUNING, PRUNE = 10, ("--keep-last", "3", "--grace", "20s")


class Container:
    def __init__(self, app):
        self.name, self.runtime = app.start()
        self.restore = pids.running(self.runtime).get("restore")
        self.pid = pids.output(pids.SANDBOX, "pid", self.name)
        self.first, self.committed = self.newest_pid(), 0
        if not self.ask_service("sum")["ok"]:
            raise SystemExit("the service has lost something")

    def ask_init(self, **request):
        """Yields init's answers."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{self.runtime}/control.sock")
            control.sendall(json.dumps({"version": 1, **request}).encode() + b"\n")
            for line in control.makefile():
                yield json.loads(line)

    def stay(self, last):
        """Yields the figures of each checkpoint by `--every`, up to the generation `last`."""
        for event in self.ask_init(op="subscribe"):
            if event.get("failures"):
                raise SystemExit(f"a checkpoint failed: {event['failure']}")
            if event.get("checkpoints", 0) > self.committed:
                self.committed = event["checkpoints"]
                yield event["checkpoint"]
                if event["checkpoint"]["generation"] >= last:
                    return

    def leave(self):
        """Ends the service by a checkpoint, and gives its figures."""
        *_, answer = self.ask_init(op="checkpoint")
        if answer["event"] != "checkpointed":
            raise SystemExit(f"a move failed: {answer}")
        subprocess.run([pids.SANDBOX, "wait", self.name], stdout=subprocess.DEVNULL, check=False)
        return answer

    def ask_service(self, word):
        """The answer to one line, from outside, as that takes no PID."""
        with open("/proc/self/ns/net") as ours, open(f"/proc/{self.pid}/ns/net") as its:
            enter(its)
            try:
                with connected() as stream:
                    stream.sendall(f"{word}\n".encode())
                    return json.loads(stream.makefile().readline())
            finally:
                enter(ours)

    def newest_pid(self):
        """Takes one PID itself."""
        return int(pids.output("nsenter", "--target", self.pid, "--pid", "cat", "/proc/loadavg").split()[-1])

    def init(self):
        """KiB of init's anonymous memory, and its descriptors."""
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            memory = next(line.split()[1] for line in file if line.startswith("Anonymous:"))
        return memory, len(os.listdir(f"/proc/{self.pid}/fd"))


def connected():
    """A connection to the service, once it listens."""
    for _ in range(1000):
        try:
            return socket.create_connection(("127.0.0.1", PORT), timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise SystemExit("the service does not listen")


def enter(namespace):
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Soak:
    def __init__(self, opt, generations):
        self.generation, self.rows = 0, [row for row in ROWS if row <= generations]
        self.app = pids.Containers(opt, 1, 1000)
        program = f"{self.app.folder.name}/service"
        pids.output("cc", "-O2", "-static", "-pthread", "-o", program, f"{pids.HERE}/service.c")
        self.app.binds += [f"{program}:/bench-service:ro", f"{self.app.made(f'{self.app.folder.name}/data')}:/data"]
        self.app.command = ["--every", "2s", "--", "/bench-service", *SERVICE]
        self.freeze = f"{opt}/freeze"
        self.frozen, self.checkpoints, self.restores = (collections.deque(maxlen=MOVES) for _ in range(3))

    def run(self):
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        for container in self.turns():
            if self.generation % PRUNING == 0:
                pids.output(self.freeze, "prune", "--store", f"file:{self.app.store}", *PRUNE)
            if self.generation >= self.rows[0]:
                self.rows.pop(0)
                self.row(container)
            if not self.rows:
                return

    def turns(self):
        """Yields the container after each generation."""
        container = Container(self.app)
        while True:
            for _ in range(MOVES):
                self.committed(container.leave())
                self.app.drop(container.name)
                container = Container(self.app)
                self.restores.append(container.restore["total_ms"])
                yield container
            for figures in container.stay((self.generation // TURN + 1) * TURN):
                self.committed(figures)
                yield container

    def committed(self, figures):
        self.generation = figures["generation"]
        self.frozen.append(figures["frozen_ms"])
        self.checkpoints.append(figures["total_ms"])

    def row(self, container):
        files = [f"{folder}/{name}" for folder, _, names in os.walk(self.app.store) for name in names]
        spent = container.newest_pid() - container.first - 1
        cells = [self.generation, *container.init(), round(spent / container.committed, 1) if container.committed else "-",
                 container.first + spent, len(files), sum(map(os.path.getsize, files)) // 1024,
                 *map(middle, (self.frozen, self.checkpoints, self.restores))]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def middle(figures):
    return f"{statistics.median(figures):.0f} ({min(figures)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=ROWS[-1])
    parser.add_argument("--opt", default=pids.default_opt(), help="folder with freeze and criu")
    arguments = parser.parse_args()
    soak = Soak(arguments.opt, arguments.generations)
    try:
        soak.run()
    finally:
        soak.app.remove()


main()
