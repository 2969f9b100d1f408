#!/usr/bin/env python3
"""Counts the PIDs that freeze spends in a restricted container, without those that the runtime's exec takes.

    make build && [integration/s3/server run] bench/pids_spent.py     # as root; prints a table

It starts a command by nsenter, which takes no PID besides the command's, and reads the container's newest PID before and
after. Under integration/s3/server it counts the same with a bucket.
"""
import os
import subprocess
import tempfile
import time

import pids

FREEZE = "/opt/freeze/freeze"
RUNTIME = ("--runtime-dir", "/runtime")
# Writes down the newest PID, without taking one, and becomes criu.
CRIU = """#!/bin/sh
read _ _ _ _ newest < /proc/loadavg && echo $newest > /runtime/reached
exec /opt/freeze/criu.real "$@"
"""
LOOKS = 10


class Container:
    def __init__(self, app):
        self.name, self.runtime = app.start()
        self.status = pids.running(self.runtime)
        self.pid = pids.output(pids.SANDBOX, "pid", self.name)

    def enter(self, *command):
        enter = ["nsenter", "--target", self.pid, "--mount", "--pid", "--net", "--ipc", "--setuid", "1000", "--setgid", "1000"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout

    def newest(self):
        return int(self.enter("/bin/cat", "/proc/loadavg").split()[-1])

    def spent(self, *command):
        """The PIDs that the command takes, with those that it makes others take."""
        before = self.newest()
        self.enter(*command)
        return self.newest() - before - 1

    def spent_by_exec(self, *command):
        before = self.newest()
        pids.output(pids.SANDBOX, "exec", self.name, *command)
        return self.newest() - before - 1

    def reached(self):
        with open(f"{self.runtime}/reached") as file:
            return int(file.read())


def row(what, spent):
    print(f"| {what} | {spent} |", flush=True)


def count(opt, kind, url):
    app = pids.Containers(opt, 1, 1000, url)
    try:
        first = Container(app)
        if kind == "file:":
            row("`freeze status --ready`", first.spent(FREEZE, "status", "--ready", *RUNTIME))
            row("`freeze doctor --service`", first.spent(FREEZE, "doctor", "--service", *RUNTIME))
            row("`freeze doctor`, with its proof", first.spent(FREEZE, "doctor", *RUNTIME))
            row("runc's exec of whatever command, besides", first.spent_by_exec("/bin/true") - 1)
        row(f"`freeze checkpoint --leave-running`, {kind}, with its worker and criu",
            first.spent(FREEZE, "checkpoint", "--leave-running", *RUNTIME))
        first.enter(FREEZE, "checkpoint", *RUNTIME)
        row(f"init and a restore's worker before criu starts, {kind}", Container(app).reached())
    finally:
        app.remove()
    app = pids.Containers(opt, 1, 1000, f"{url}-exclusive")
    app.command = ["--exclusive=1s", *app.command]
    try:
        container = Container(app)
        before = container.newest()
        time.sleep(LOOKS)
        row(f"a look of `--exclusive`, {kind}", round((container.newest() - before - 1) / LOOKS, 1))
    finally:
        app.remove()


def main():
    real = pids.default_opt()
    with tempfile.TemporaryDirectory() as opt:
        os.chmod(opt, 0o755)
        subprocess.run(["cp", f"{real}/freeze", opt], check=True)
        subprocess.run(["cp", f"{real}/criu", f"{opt}/criu.real"], check=True)
        with open(f"{opt}/criu", "w") as file:
            file.write(CRIU)
        os.chmod(f"{opt}/criu", 0o755)
        print("| | PIDs |\n|---|---|")
        count(opt, "file:", "file:/store/a")
        if "AWS_ENDPOINT_URL" in os.environ:
            count(opt, "s3:", "s3://freeze/a")


main()
