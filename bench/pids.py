#!/usr/bin/env python3
"""Times restores that have to count PIDs up, in fresh restricted containers, and prints the predicted time beside it.

    make build && bench/pids.py [--rounds N]       # as root; prints a table

It checkpoints a service in one container and restores it in another, for several numbers of processes and several first
PIDs. "predicted" is the time that the log gave before the restore (nothing if that is less than 0.1 s); "restore" is the
best of all rounds.
"""
import argparse
import itertools
import json
import os
import re
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
SANDBOX = f"{TOP}/integration/sandbox/sandbox"
CASES = [(n, 1000) for n in (1, 8, 16, 64)] + [(1, 30_000), (1, 300_000), (16, 300_000)]


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Containers:
    """One application: a store, and one container after another."""

    def __init__(self, opt, processes, first_pid, url="file:/store"):
        self.folder = tempfile.TemporaryDirectory()
        self.store = f"{self.folder.name}/store"
        os.chmod(self.folder.name, 0o755)
        self.made(self.store)
        service = ["one"] if processes == 1 else ["prefork", str(processes)]
        self.command = ["--first-pid", str(first_pid), "--", "/services/service", *service]
        self.binds = [f"{opt}:/opt/freeze:ro", f"{os.path.dirname(output(f'{TOP}/tests/services/build'))}:/services:ro"]
        self.root = output(f"{TOP}/integration/sandbox/root", "busybox")
        self.url = url
        self.network = []
        self.numbers = itertools.count()
        if url.startswith("s3:"):
            names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
            self.network = ["--net", "host", *(word for name in names for word in ("--env", f"{name}={os.environ[name]}"))]
        self.ids = []

    def made(self, folder):
        os.mkdir(folder)
        os.chown(folder, 1000, 1000)
        return folder

    def start(self):
        name = f"bench-pids-{os.getpid()}-{id(self)}-{next(self.numbers)}"
        runtime = self.made(f"{self.folder.name}/{name}")
        os.chmod(runtime, 0o700)
        binds = [*self.binds, f"{self.store}:/store", f"{runtime}:/runtime"]
        output(SANDBOX, "start", "--id", name, *self.network, *(word for bind in binds for word in ("--bind", bind)), self.root,
               "/opt/freeze/freeze", "run", "--store", self.url, "--runtime-dir", "/runtime", *self.command)
        self.ids.append(name)
        return name, runtime

    def drop(self, name):
        output(SANDBOX, "rm", name)
        self.ids.remove(name)

    def remove(self):
        for name in list(self.ids):
            self.drop(name)
        self.folder.cleanup()


def running(runtime):
    """Waits until the service runs, and returns init's status."""
    for _ in range(30_000):
        try:
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(f"{runtime}/control.sock")
                control.sendall(b'{"version":1,"op":"status"}\n')
                status = json.loads(control.makefile().readline())
            if status["state"] == "running":
                return status
        except OSError:
            pass
        time.sleep(0.002)
    raise SystemExit("the service does not run")


def move(opt, processes, first_pid):
    app = Containers(opt, processes, first_pid)
    try:
        first, runtime = app.start()
        running(runtime)
        # The service listens after it has forked its processes, so an answer means that they are there.
        output(SANDBOX, "exec", first, "/services/service", "ask", "7000", "verify")
        output(SANDBOX, "exec", first, "/opt/freeze/freeze", "checkpoint", "--runtime-dir", "/runtime")
        second, runtime = app.start()
        total = running(runtime)["restore"]["total_ms"]
        said = re.search(r"counting PIDs up to \d+.*?([0-9.]+) s", output(SANDBOX, "logs", second) + logs(second))
        return float(said.group(1)) if said else None, total
    finally:
        app.remove()


def logs(name):
    return subprocess.run([SANDBOX, "logs", name], check=True, capture_output=True, text=True).stderr


def default_opt():
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/freeze/target")), "opt")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opt", default=default_opt(), help="folder with freeze and criu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{'processes':>9}{'first PID':>11}{'predicted':>11}{'restore (best of ' + str(arguments.rounds) + ')':>25}")
    for processes, first_pid in CASES:
        moves = [move(arguments.opt, processes, first_pid) for _ in range(arguments.rounds)]
        predicted = "-" if moves[0][0] is None else f"{moves[0][0]:.1f} s"
        print(f"{processes:>9}{first_pid:>11}{predicted:>11}{min(total for _, total in moves):>22} ms", flush=True)


if __name__ == "__main__":
    main()
