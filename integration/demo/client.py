"""A client of the demo's redis, in plain sockets.

BOXES is a file with a line for each container: the address where it is reached (ADDRESS, or ADDRESS:PORT where that is not PORT), or the PID of
its init, whose network is entered. It asks whichever answers, as behind a load balancer.

client.py wait BOXES PORT                   until redis answers
client.py ask BOXES PORT WORD...            one command of redis; prints the first line of its answer
client.py count BOXES PORT FILE             INCR of `counter`, from 1, once a millisecond; on SIGINT writes what it saw to FILE as JSON
client.py relay PID PORT TARGET             listens on PORT in the network of PID, and passes all on to TARGET on this machine
client.py report NAME=FILE...               prints the table; fails where something was lost or done twice
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def enter(pid):
    """Sockets that this thread makes from now on are in the network of that process."""
    with open("/proc/%s/ns/net" % pid) as network:
        if libc.setns(network.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def connect(boxes, port):
    while True:
        with open(boxes) as file:
            lines = file.read().split()
        for box in reversed(lines):
            address, _, other = box.partition(":")
            try:
                if box.isdigit():
                    enter(box)
                    address = "127.0.0.1"
                # An address that is gone may not answer at all.
                connection = socket.create_connection((address, int(other or port)), timeout=0.1)
                connection.settimeout(1)
                # While nobody listens, the kernel may give the client that very port, and it connects to itself.
                # One that is reset already, as by rootless Podman's pasta, has no peer.
                if connection.getsockname() != connection.getpeername():
                    return connection
                connection.close()
            except OSError:
                continue
        time.sleep(0.0005)


def ask(connection, line):
    connection.sendall(line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        more = connection.recv(4096)
        if not more:
            raise OSError("closed")
        answer += more
    return answer.strip()


def reach(boxes, port):
    """A connection on which redis answers: some networks take connections while nobody is behind them."""
    while True:
        connection = connect(boxes, port)
        try:
            if ask(connection, b"PING") == b"+PONG":
                return connection
        except OSError:
            time.sleep(0.001)


def count(boxes, port, path):
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    seen = {"answers": 0, "value": 0, "lost": 0, "doubled": 0, "gap_ms": 0.0, "gap_began_ms": 0.0}
    last = None
    unanswered = 0
    connection = reach(boxes, port)
    ask(connection, b"DEL counter")
    # An end that nobody has answered after is no end: the gap would be missing.
    while not stop or unanswered:
        try:
            value = int(ask(connection, b"INCR counter")[1:])
        except OSError:
            # It may be done or not: no more than that may be missing or too much.
            unanswered += 1
            connection = reach(boxes, port)
            continue
        now = time.monotonic()
        seen["lost"] += max(0, seen["value"] + 1 - value)
        seen["doubled"] += max(0, value - seen["value"] - 1 - unanswered)
        unanswered = 0
        if last is not None and (now - last) * 1000 > seen["gap_ms"]:
            seen["gap_ms"] = (now - last) * 1000
            # By the clock that logs and other processes have.
            seen["gap_began_ms"] = time.time() * 1000 - seen["gap_ms"]
        last = now
        seen["answers"] += 1
        seen["value"] = value
        if seen["answers"] == 1:
            with open(path, "w") as file:
                json.dump(seen, file)
        time.sleep(0.001)
    with open(path, "w") as file:
        json.dump(seen, file)


def relay(pid, port, target):
    home = "/proc/%d/ns/net" % os.getpid()
    here = open(home)
    enter(pid)
    listener = socket.create_server(("127.0.0.1", port))
    libc.setns(here.fileno(), CLONE_NEWNET)

    def copy(source, sink):
        try:
            while data := source.recv(1 << 20):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", target))
        for pair in ((client, server), (server, client)):
            threading.Thread(target=copy, args=pair, daemon=True).start()


def report(*acts):
    print("\n  %-10s %10s %12s %14s %18s" % ("", "memory", "requests", "lost, doubled", "longest gap seen"))
    damage = 0
    for act in acts:
        name, path = act.split("=", 1)
        with open(path) as file:
            seen = json.load(file)
        damage += seen["lost"] + seen["doubled"]
        cells = (name, seen["memory_mib"], seen["answers"], seen["lost"], seen["doubled"], seen["gap_ms"])
        print("  %-10s %6d MiB %12d %11d, %d %15d ms" % cells)
    if damage:
        sys.exit("demo: something was lost, or done twice")


def main(verb, *args):
    if verb == "wait":
        reach(args[0], int(args[1]))
    elif verb == "ask":
        print(ask(reach(args[0], int(args[1])), " ".join(args[2:]).encode()).split(b"\r\n")[0].decode())
    elif verb == "count":
        count(args[0], int(args[1]), args[2])
    elif verb == "relay":
        relay(args[0], int(args[1]), int(args[2]))
    else:
        report(*args)


main(*sys.argv[1:])
