"""redis: keys, a counter, and clients that wait in BLPOP."""

import contextlib
import itertools

from load import expect

PORT = 6379
KEYS = 2000
numbers = itertools.count(1)


class Connection(contextlib.closing):
    """Speaks RESP, as far as it is needed."""

    def __init__(self, socket):
        super().__init__(self)
        self.socket, self.file = socket, socket.makefile("rb")

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"$" and rest != "-1":
            return self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*" and rest != "-1":
            return [self.answer() for _ in range(int(rest))]
        return {b":": int}.get(kind, str)(rest)

    def ask(self, *words):
        self.send(*words)
        return self.answer()


class Check:
    def connect(self, container):
        return Connection(container.connect(PORT))

    def ask(self, connection):
        number = next(numbers)
        expect("SET", "OK", connection.ask("SET", "last", number))
        key = number % KEYS
        expect("GET", f"{key}:" + "x" * 100, connection.ask("GET", f"key:{key}"))

    def begin(self, container):
        with self.connect(container) as redis:
            for key in range(KEYS):
                expect("SET", "OK", redis.ask("SET", f"key:{key}", f"{key}:" + "x" * 100))
            self.run_id = redis.ask("INFO", "server").partition("run_id:")[2].split()[0]
        self.waits(container)

    def waits(self, container):
        """A client that waits for the list, which the next step finds waiting, or gone."""
        self.blocked = self.connect(container)
        self.blocked.send("BLPOP", "list", 0)
        with self.connect(container) as redis:
            while "blocked_clients:1" not in redis.ask("INFO", "clients"):
                pass

    def holds(self, container):
        with self.connect(container) as redis:
            expect("run_id", self.run_id, redis.ask("INFO", "server").partition("run_id:")[2].split()[0])
            expect("keys", KEYS + 1, redis.ask("DBSIZE"))
            # A client that waits gets the element. One that was closed does not: the element stays.
            waiting = int(redis.ask("INFO", "clients").partition("blocked_clients:")[2].split()[0])
            expect("RPUSH", 1, redis.ask("RPUSH", "list", "element"))
            expect("LLEN", 1 - waiting, redis.ask("LLEN", "list"))
            if waiting:
                expect("BLPOP", ["list", "element"], self.blocked.answer())
            redis.ask("DEL", "list")
            # A wait with a limit ends, which needs a clock that does not stand still.
            expect("BLPOP with a limit", "-1", redis.ask("BLPOP", "none", 1))
            if redis.ask("CONFIG", "GET", "appendonly")[1] == "yes":
                while "aof_rewrite_in_progress:1" in redis.ask("INFO", "persistence"):
                    pass
                folder = container.path("/data/appendonlydir")
                files = [line.split()[1] for line in (folder / "appendonly.aof.manifest").read_text().splitlines()]
                expect("files of the manifest", files, [file for file in files if (folder / file).exists()])
                expect("BGREWRITEAOF", "Background", redis.ask("BGREWRITEAOF").split()[0])
        self.blocked.close()
        self.waits(container)
