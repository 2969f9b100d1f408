"""Where the time goes while a pod moves: records it for `test`, and prints the table.

All times are of this machine's clock, in milliseconds.

downtime.py watch BOXES EVENTS COMMAND…    runs `kubectl get pods --watch --output json --output-watch-events`; writes a
                                           line for each event to EVENTS, and the address of each new pod to BOXES
downtime.py stamp                          prints each line of stdin with the time of its arrival before it
downtime.py wire PORT HOST:PORT FILE       relays to the store; logs time, direction and bytes of each packet
downtime.py report FOLDER OLD NEW          prints the table, from the files events, old.log, new.log, old.status,
                                           new.status, wire and seen; OLD and NEW are the two pods' uids
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime


def now():
    return time.time() * 1000


def objects(stream):
    """Yields each JSON object of a stream as soon as it is complete."""
    decoder, text = json.JSONDecoder(), ""
    while data := stream.read1(1 << 16):
        text = (text + data.decode()).lstrip()
        while text:
            try:
                thing, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield thing


def watch(boxes, events, *command):
    seen = set()
    with open(boxes, "a") as boxes, open(events, "a") as events:
        kubectl = subprocess.Popen(command, stdout=subprocess.PIPE)
        for event in objects(kubectl.stdout):
            pod = event["object"]
            address = pod["status"].get("podIP")
            if address and address not in seen:
                seen.add(address)
                print(address, file=boxes, flush=True)
            line = {"at": now(), "type": event["type"], "uid": pod["metadata"]["uid"], "node": pod["spec"].get("nodeName")}
            print(json.dumps(line), file=events, flush=True)


def stamp():
    for line in sys.stdin:
        print("%.3f %s" % (now(), line), end="", flush=True)


def wire(port, target, path):
    host, target_port = target.split(":")
    log = open(path, "a")

    def copy(source, sink, way):
        try:
            while data := source.recv(1 << 18):
                print("%.3f %s %d" % (now(), way, len(data)), file=log)
                sink.sendall(data)
        except OSError:
            pass
        log.flush()
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    listener = socket.create_server(("", int(port)), backlog=128)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, int(target_port)))
        for pair in ((client, server, "up"), (server, client, "down")):
            threading.Thread(target=copy, args=pair, daemon=True).start()


def logged(path, pattern):
    """The time of the first matching line of `kubectl logs --timestamps`, and the match."""
    with open(path) as file:
        for line in file:
            at, _, text = line.partition(" ")
            if match := re.search(pattern, text):
                return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", at)).timestamp() * 1000, match
    sys.exit(f"downtime: {path} has no line with {pattern}")


def moved(path, way, begin, end):
    """What passed between a pod and the store in that time: MiB, and the time of the last large packet."""
    with open(path) as file:
        lines = [line.split() for line in file]
    packets = [(float(at), int(size)) for at, where, size in lines if where == way and begin <= float(at) <= end]
    return sum(size for _, size in packets) / 1048576, max(at for at, size in packets if size > 4096)


def report(folder, old, new):
    with open(folder + "/events") as file:
        events = [json.loads(line) for line in file]
    first = lambda uid, when: next(event["at"] for event in events if event["uid"] == uid and when(event))
    with open(folder + "/seen") as file:
        seen = json.load(file)
    with open(folder + "/new.status") as file:
        restore = json.load(file)["restore"]
    followed = []
    with open(folder + "/old.status") as file:
        for line in file:
            at, _, text = line.partition(" ")
            followed.append((float(at), json.loads(text)))

    dumped = next(at for at, event in followed if event.get("phase") in ("files", "commit"))
    committed, _ = logged(folder + "/old.log", r"generation \d+ is committed")
    gone = first(old, lambda event: event["type"] == "DELETED")
    made = first(new, lambda event: True)
    placed = first(new, lambda event: event["node"])
    started, _ = logged(folder + "/new.log", r"freeze: ")
    restored = restore["at_ms"]
    last, again = seen["gap_began_ms"], seen["gap_began_ms"] + seen["gap_ms"]
    sent, _ = moved(folder + "/wire", "up", last, committed)
    fetched, arrived = moved(folder + "/wire", "down", started, restored)

    rows = [
        ("freeze", last, dumped, "processes stopped, memory read, compressed, and sent meanwhile"),
        ("upload", dumped, committed, "what is not sent by then, and the commit; %.0f MiB in all" % sent),
        ("termination", committed, gone, "the container ends, kubelet and API server remove the pod"),
        ("controller", gone, made, "makes the next pod"),
        ("scheduling", made, placed, "to the other node"),
        ("container start", placed, started, "volumes, network, runc, until freeze runs"),
        ("fetch", started, arrived, "manifest and memory, %.0f MiB; processes made meanwhile" % fetched),
        ("restore", arrived, restored, "what is left of it"),
        ("client", restored, again, "finds the service"),
        ("all", last, again, "from answer to answer"),
    ]
    print()
    for name, begin, end, what in rows:
        print("  %-16s %7.0f ms   %s" % (name, end - begin, what))
    print()


def main():
    globals()[sys.argv[1]](*sys.argv[2:])


main()
