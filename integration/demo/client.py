"""A client of the demo's redis, with plain sockets.

BOXES is a file with a line for each container: its address (ADDRESS, or ADDRESS:PORT if the port is not PORT), or the
PID of its init, whose network namespace the client enters. The client asks the container that answers, as behind a
load balancer.

client.py wait BOXES PORT                   waits until redis answers
client.py ask BOXES PORT WORD...            sends redis one command; prints the first line of the answer
client.py count BOXES PORT FILE             INCR of `counter`, from 1, once a millisecond; SIGINT ends it
                                            and writes what it saw to FILE as JSON
client.py relay PID PORT TARGET             listens on PORT in the network of PID, and relays to the port TARGET of
                                            this machine
client.py report NAME=FILE...               prints the table; fails if an answer was lost or doubled
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
    """Moves this thread into the network of that process, for the sockets that it makes from now on."""
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
                # While no server listens, the kernel may give the client that very port, so that it connects to itself.
                # A connection that was reset already (rootless Podman's pasta does so) has no peer.
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
    """A connection on which redis answers. Some networks accept connections before a server is behind them."""
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
    # Goes on until the next answer; the last gap would be missing otherwise.
    while not stop or unanswered:
        try:
            value = int(ask(connection, b"INCR counter")[1:])
        except OSError:
            # redis may have done this request or not, so the counter may be one higher later.
            unanswered += 1
            connection = reach(boxes, port)
            continue
        now = time.monotonic()
        seen["lost"] += max(0, seen["value"] + 1 - value)
        seen["doubled"] += max(0, value - seen["value"] - 1 - unanswered)
        unanswered = 0
        if last is not None and (now - last) * 1000 > seen["gap_ms"]:
            seen["gap_ms"] = (now - last) * 1000
            # Wall-clock time, as in logs and in other processes.
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
