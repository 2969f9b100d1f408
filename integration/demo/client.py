"""A client of the demo's redis, in plain sockets.

client.py wait PORT                      until redis answers
client.py count PORT FILE                INCR once a millisecond; on SIGINT writes what it saw to FILE as JSON
client.py report FILE CHECKPOINT STARTED BEFORE AFTER   prints the table, fails where something was lost; STARTED is
                                         when the second container was started, in seconds since 1970
"""

import json
import signal
import socket
import sys
import time


def connect(port):
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=1)
        except OSError:
            time.sleep(0.0005)
            continue
        # While nobody listens, the kernel may give the client that very port, and it connects to itself.
        if connection.getsockname() != connection.getpeername():
            return connection
        connection.close()


def ask(connection, line):
    connection.sendall(line + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        more = connection.recv(4096)
        if not more:
            raise OSError("closed")
        answer += more
    return answer.strip()


def wait(port):
    while True:
        try:
            if ask(connect(port), b"PING") == b"+PONG":
                return
        except OSError:
            time.sleep(0.001)


def count(port, path):
    stop = []
    signal.signal(signal.SIGINT, lambda *_: stop.append(True))
    seen = {"answers": 0, "value": 0, "lost": 0, "gap_ms": 0.0, "back": 0.0}
    last = None
    connection = connect(port)
    while not stop:
        try:
            value = int(ask(connection, b"INCR counter")[1:])
        except OSError:
            connection = connect(port)
            continue
        now = time.monotonic()
        # One increment may be done without its answer having arrived; none may be forgotten.
        if value <= seen["value"]:
            seen["lost"] += 1
        if last is not None and (now - last) * 1000 > seen["gap_ms"]:
            seen["gap_ms"] = (now - last) * 1000
            seen["back"] = time.time()
        last = now
        seen["answers"] += 1
        seen["value"] = value
        if seen["answers"] == 1:
            with open(path, "w") as file:
                json.dump(seen, file)
        time.sleep(0.001)
    with open(path, "w") as file:
        json.dump(seen, file)


def report(client, checkpoint, started, before, after):
    with open(client) as file:
        seen = json.load(file)
    with open(checkpoint) as file:
        took = json.loads(file.read().strip().splitlines()[-1])
    rows = [
        ("keys before and after", "%s, %s" % (before, after)),
        ("counter", "goes on, at %d after %d answers" % (seen["value"], seen["answers"])),
        ("memory and files taken", "%.1f MiB" % (took["bytes"] / 2**20)),
        ("checkpoint in the store", "%.1f MiB" % (took["stored"] / 2**20)),
        ("checkpoint, all of it", "%d ms" % took["total_ms"]),
        ("frozen until committed", "%d ms" % took["frozen_ms"]),
        ("new container and restore", "%d ms" % ((seen["back"] - float(started)) * 1000)),
        ("downtime seen by the client", "%d ms" % seen["gap_ms"]),
    ]
    print()
    for name, value in rows:
        print("  %-28s %s" % (name, value))
    # The counter is a key as well.
    if seen["lost"] or int(after) != int(before) + 1 or int(before) != 100000:
        sys.exit("demo: something was lost")


def main(verb, *args):
    if verb == "wait":
        wait(int(args[0]))
    elif verb == "count":
        count(int(args[0]), args[1])
    else:
        report(*args)


main(*sys.argv[1:])
