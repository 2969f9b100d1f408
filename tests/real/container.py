"""Containers of one application, one after another, and clients of the service in them.

A client enters the container's network, and for programs its files, but not its PIDs: so it takes none of those that a
restore needs.
"""

import concurrent.futures
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SANDBOX = str(CHECKOUT / "integration/sandbox/sandbox")
USER = 1000
CLONE_NEWNET = 0x40000000
# How long anything may take that is waited for, on a slow and busy machine.
PATIENCE = 60
# How many hours longer than this machine the host of each next container has been up, by FREEZE_TEST_HOSTS: each has booted
# earlier than the last one, later, or later, earlier and later in turn. A time namespace around the sandbox plays it.
HOSTS = {"one": (0,) * 4, "earlier": (0, 10, 20, 30), "later": (30, 20, 10, 0), "turns": (20, 10, 30, 0)}
UPTIMES = HOSTS[os.environ.get("FREEZE_TEST_HOSTS", "one")]
SETTING = os.environ.get("FREEZE_TEST_SETTING", "restricted")

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A step did not work; the sentence says why."""


class Application:
    """What its containers share: the command, a store, a volume, and what was built for it; their user owns these."""

    def __init__(self, name, opt, command, work, user=USER):
        self.name, self.opt, self.command, self.work, self.user = name, opt, command, work, user
        self.started = 0
        for folder in ("store", "volume", "built"):
            self.folder(folder)

    def folder(self, name):
        folder = self.work / name
        folder.mkdir()
        shutil.chown(folder, self.user, self.user)
        return folder

    def start(self, root, options=()):
        """A fresh container: it restores where there is a generation, else it starts the service."""
        hours = UPTIMES[self.started % len(UPTIMES)]
        self.started += 1
        return Container(self, f"real-{self.name}-{self.started}", root, options, hours)


class Container:
    """One container."""

    def __init__(self, application, name, root, options, hours):
        self.id, self.opt, self.clients, self.hours = name, application.opt, [], hours
        self.runtime = application.folder(name)
        binds = [
            f"{application.opt}:/opt/freeze:ro",
            f"{CHECKOUT}/tests/real:/services:ro",
            f"{application.work}/built:/built:ro",
            f"{application.work}/store:/store",
            f"{application.work}/volume:/volume",
            f"{self.runtime}:/run/freeze",
        ]
        words = [word for bind in binds for word in ("--bind", bind)]
        words += ["--env", "FREEZE_STORE=file:/store"]
        command = ["/bin/sh", "-c", f"PATH=$PATH:/opt/freeze\n{application.command}"]
        self.pid = int(sandbox("start", "--id", name, "--setting", SETTING, *words, *options, root, *command, hours=hours).stdout)
        # The sandbox's folder of it, with what it has printed and with its keyboard.
        self.folder = Path(sandbox("dir", name).stdout.strip())

    def remove(self):
        sandbox("rm", self.id, check=False)
        for client in self.clients:
            client.kill()
            client.wait()

    def running(self):
        """Waits until init says that the service runs."""
        wait = [f"{self.opt}/freeze", "wait", "running", "--timeout", f"{PATIENCE}s", "--runtime-dir", self.runtime]
        done = subprocess.run(wait, capture_output=True, text=True)
        if done.returncode:
            raise Failed(sentence(self.log()) or sentence(done.stderr))

    def checkpoint(self, *options):
        """Checkpoints by exec, as a user does. Without --leave-running the container ends with it."""
        done = self.exec("/opt/freeze/freeze", "checkpoint", *options)
        if done.returncode:
            raise Failed(sentence(done.stderr))
        if "--leave-running" not in options:
            sandbox("wait", self.id, check=False)
        return done.stdout.strip()

    def exec(self, *command):
        """Runs a command inside, as `docker exec` would."""
        return sandbox("exec", self.id, *command, check=False, hours=self.hours)

    def has_ended(self):
        return (self.folder / "status").exists()

    def log(self):
        """What it has written to stdout and stderr."""
        done = sandbox("logs", self.id)
        return done.stdout + done.stderr

    def story(self):
        """The last lines of its log, and what criu's log says was wrong."""
        lines = self.log().splitlines()[-20:]
        for log in ("dump.log", "restore.log"):
            path = self.runtime / log
            if path.exists():
                text = path.read_text(errors="replace").splitlines()
                lines += [f"{log}: {line}" for line in text if "Error" in line or "Warn" in line][-20:]
        return "\n".join(lines)

    def connect(self, port):
        """A TCP connection to the service."""

        def connected():
            with open(f"/proc/{self.pid}/ns/net") as network:
                if libc.setns(network.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return socket.create_connection(("127.0.0.1", port), timeout=10)

        # Sockets stay in the network where they were made; threads too, so this is one that ends.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(connected).result()

    def path(self, name):
        """A path in the container, from outside."""
        return Path(f"/proc/{self.pid}/root{name}")

    def client(self, *command):
        """Starts a program of the container's files as a client from outside."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--setgid={USER}", f"--setuid={USER}"]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LC_ALL": "C.UTF-8"}
        self.clients.append(subprocess.Popen([*enter, "--", *command], env=variables, text=True, **pipes))
        return self.clients[-1]

    def processes(self, word):
        """PIDs, in the container, of the service's processes whose command line has this word."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = set()
        # Init's command line has the service's.
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                inside = entry.name.isdigit() and os.readlink(entry / "ns/pid") == space
                if inside and word in (entry / "cmdline").read_text():
                    pids = (entry / "status").read_text().partition("NSpid:")[2].splitlines()[0]
                    found.add(int(pids.split()[-1]))
        return found - {1}


def sandbox(*words, check=True, hours=0):
    """Runs the sandbox on a host that has been up for so many hours longer."""
    seconds = str(hours * 3600)
    host = ["unshare", "--time", "--monotonic", seconds, "--boottime", seconds] if hours else []
    done = subprocess.run([*host, SANDBOX, *map(str, words)], capture_output=True, text=True, errors="replace")
    if check and done.returncode:
        raise Failed(f"sandbox {words[0]}: {done.stderr.strip()}")
    return done


def sentence(text):
    """The last that freeze said, but for where to read more."""
    said = [line.removeprefix("freeze: ") for line in text.splitlines() if line.startswith("freeze: ")]
    said = [line for line in said if not line.startswith("CRIU's log")]
    return said[-1] if said else text.strip()
