"""mixed.py - a service that makes threads and child processes in turn, so that threads have IDs below those of later
children. The children have threads, too.

It answers on port 7000 as the other services do (../main.c): `verify` and `exit STATUS`. It restarts and repairs nothing.
"""

import os
import socket
import threading
import time

TURNS = 4


class Counter(threading.Thread):
    """A thread that counts, and stops if its own IDs change."""

    def __init__(self):
        super().__init__(daemon=True)
        self.count = 0
        self.start()

    def run(self):
        before = identity()
        while identity() == before:
            self.count += 1
            time.sleep(0.01)

    def goes_on(self):
        before, tries = self.count, 500
        while self.count < before + 2 and tries:
            time.sleep(0.01)
            tries -= 1
        return tries > 0


def identity():
    return os.getpid(), os.getppid(), os.getsid(0), threading.get_native_id()


def child(connection):
    """Answers each byte with its PID if its thread has counted on, else with 0."""
    counter, before = Counter(), identity()
    while connection.recv(1):
        alive = counter.goes_on() and identity() == before
        connection.sendall(b"%d\n" % (os.getpid() if alive else 0))
    os._exit(1)


def fork(others):
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        for other in [*others, ours]:
            other.close()
        child(theirs)
    theirs.close()
    ours.settimeout(30)
    return pid, ours


def verify(counters, children, me):
    if identity() != me:
        return f"error identity: was {me}, is {identity()}"
    if not all(counter.goes_on() for counter in counters):
        return "error a thread stands still"
    for pid, connection in children:
        connection.sendall(b"?")
        answer = connection.recv(16)
        if answer != b"%d\n" % pid:
            return f"error child {pid} says {answer}"
    if os.waitpid(-1, os.WNOHANG)[0]:
        return "error a child has ended"
    return f"ok pid={me[0]} threads={len(counters)} children={len(children)} count={counters[0].count}"


def main():
    listener = socket.create_server(("127.0.0.1", 7000))
    counters, children = [], []
    for _ in range(TURNS):
        counters.append(Counter())
        children.append(fork([listener, *(connection for _, connection in children)]))
    me = identity()
    while True:
        connection, _ = listener.accept()
        with connection:
            word = connection.makefile().readline().split()
            if word[:1] == ["verify"]:
                connection.sendall(verify(counters, children, me).encode() + b"\n")
            elif word[:1] == ["exit"]:
                connection.sendall(b"ok\n")
                os._exit(int(word[1]))


main()
