"""Waits in the ways of Python, each again and again, and says on port 7000 how often: `WAY=N … back=N`.

`back` counts the reads of the monotonic clock that are less than the one before.
"""

import asyncio
import queue
import socket
import threading
import time

WAIT = 0.2
counts = {}


def again(way, wait):
    counts[way] = 0
    while True:
        wait()
        counts[way] += 1


def read_clock():
    counts["back"], last = 0, 0
    while True:
        now = time.monotonic()
        counts["back"] += now < last
        last = now
        time.sleep(0.002)


def from_queue():
    try:
        queue.Queue().get(timeout=WAIT)
    except queue.Empty:
        pass


async def in_a_loop():
    counts["asyncio"] = 0
    while True:
        await asyncio.sleep(WAIT)
        counts["asyncio"] += 1


def main():
    event, lock, condition = threading.Event(), threading.Lock(), threading.Condition()
    lock.acquire()

    def on_condition():
        with condition:
            condition.wait(WAIT)

    ways = {
        "event": lambda: event.wait(WAIT),
        "sleep": lambda: time.sleep(WAIT),
        "lock": lambda: lock.acquire(timeout=WAIT),
        "condition": on_condition,
        "queue": from_queue,
    }
    for way in ways.items():
        threading.Thread(target=again, args=way, daemon=True).start()
    threading.Thread(target=read_clock, daemon=True).start()
    threading.Thread(target=lambda: asyncio.run(in_a_loop()), daemon=True).start()
    with socket.create_server(("127.0.0.1", 7000)) as listener:
        while True:
            connection = listener.accept()[0]
            connection.sendall((" ".join(f"{way}={count}" for way, count in counts.items()) + "\n").encode())
            connection.close()


main()
