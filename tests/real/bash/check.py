"""bash on a terminal: a job in the background, a stopped one, and the keys that stop and go on."""

import contextlib
import functools
import itertools
import os
import re
import threading
import time

from load import expect

numbers = itertools.count(1)


class Terminal:
    """Keys, and what the screen shows. The load's clients take turns."""

    turn = threading.Lock()

    def __init__(self, container):
        self.folder = container.folder

    @functools.cached_property
    def keyboard(self):
        # The sandbox reads keys until nobody holds this open. For reading too, as that waits for no reader.
        return os.open(self.folder / "stdin", os.O_RDWR)

    def press(self, keys):
        os.write(self.keyboard, keys.encode())

    def ask(self, command):
        """The lines that a command prints."""
        end = f"end {next(numbers)}."
        with self.turn:
            # ^U ends a line of which the last container got a part. The screen shows the command too, with the quotes.
            self.press(f"\x15{command}; echo 'end' {end[4:]}\n")
            until = time.monotonic() + 10
            while time.monotonic() < until:
                shown = (self.folder / "stdout.log").read_text(errors="replace").replace("\r", "")
                if f"\n{end}\n" in shown:
                    lines = shown.rpartition(f"'end' {end[4:]}\n")[2].splitlines()
                    return lines[: lines.index(end)]
                time.sleep(0.01)
        raise TimeoutError(f"nothing answers {command}")


class Check:
    OPTIONS = ["--tty", "--interactive"]

    def connect(self, container):
        return contextlib.nullcontext(Terminal(container))

    def ask(self, terminal):
        number = next(numbers)
        expect("answer", [str(number**2)], terminal.ask(f"echo $(({number} * {number}))"))

    def begin(self, container):
        terminal = Terminal(container)
        terminal.ask("stty size; sleep 1000 & sleep 2000 & kill -STOP %2; sleep 0.1")
        self.holds(container)

    def holds(self, container):
        terminal = Terminal(container)
        jobs = [re.sub(r"\W+", " ", line).split()[1] for line in terminal.ask("jobs") if "sleep" in line]
        expect("jobs", ["Running", "Stopped"], sorted(jobs))
        with terminal.turn:
            terminal.press("fg %2\n")
            time.sleep(0.2)
            terminal.press("\x1a")
        jobs = [re.sub(r"\W+", " ", line).split()[1] for line in terminal.ask("jobs") if "sleep" in line]
        expect("jobs after fg and ^Z", ["Running", "Stopped"], sorted(jobs))
