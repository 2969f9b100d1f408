"""A service of multiprocessing: a worker of each start method, with queues and a lock; shared memory; a pool.

It answers a number with four from each worker: its square, the worker's PID, what the worker has counted, and its byte of
the shared memory. The last one is the square from the pool.
"""

import multiprocessing
import os
import socketserver
import threading
from multiprocessing import shared_memory

METHODS = "fork", "spawn", "forkserver"


def work(questions, answers, lock, total, memory, place):
    shared = shared_memory.SharedMemory(memory)
    while True:
        number = questions.get()
        with lock:
            total.value += 1
            shared.buf[place] = number % 251
        answers.put((number * number, os.getpid()))


def square(number):
    return number * number


class Worker:
    def __init__(self, method, memory, place):
        context = multiprocessing.get_context(method)
        self.questions, self.answers, self.total = context.Queue(), context.Queue(), context.Value("q")
        # Its name goes with the object, which the child must find.
        self.lock = context.Lock()
        args = (self.questions, self.answers, self.lock, self.total, memory.name, place)
        self.process = context.Process(target=work, args=args, daemon=True)
        self.process.start()


def main():
    memory = shared_memory.SharedMemory(create=True, size=4096)
    pool = multiprocessing.Pool(2)
    workers = [Worker(method, memory, place) for place, method in enumerate(METHODS)]

    turn = threading.Lock()

    def answer(number):
        words = []
        for worker in workers:
            worker.questions.put(number)
        for place, worker in enumerate(workers):
            result, pid = worker.answers.get()
            words += [result, pid, worker.total.value, memory.buf[place]]
        return words + pool.map(square, [number])

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                with turn:
                    words = answer(int(line))
                self.wfile.write((" ".join(map(str, words)) + "\n").encode())

    socketserver.ThreadingTCPServer(("127.0.0.1", 7000), Handler).serve_forever()


if __name__ == "__main__":
    main()
