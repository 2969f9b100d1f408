#!/usr/bin/env python3
"""clock_cost.py OPT [N]: what a clock costs that goes on in user space: N times (5) it moves a C program to a host that booted
at the same time, and in turn to one that booted ten hours later. Prints, of both, the median ns of a read, us of a wait until a
time that is over, ms of the restore, and KiB of memory that are the process's own. Then the median ms of the restore of programs
in other languages. OPT is the folder with freeze and criu. Needs root.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from clocks import HERE, Application, Container, Run, counted_words, line_of, programs, root, said, sandbox, served, services

COLUMNS = {
    "read_ns": "ns a read",
    "futex_us": "µs a futex with a time",
    "sleep_us": "µs a wait until a time that is over",
    "restore_ms": "ms a restore",
    "own_kib": "KiB of its own",
}
# Hours that the first host has been up for longer than the second, by row.
ROWS = {"the kernel's clock": 0, "its own, in user space": 10}
# Of bench/clocks.py.
LANGUAGES = ("python", "go", "node", "java")


def moved(opt, root, hours):
    """What it costs after a move."""
    with tempfile.TemporaryDirectory(prefix="freeze-clock-cost.", dir="/var/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        application = Application(f"cost-{hours}", opt, "exec freeze run -- /built/cost", work)
        subprocess.run(["cc", "-O2", "-static", "-o", work / "built/cost", HERE / "clocks/cost.c"], check=True)
        for name, up in (("source", hours), ("target", 0)):
            container = Container(application, f"clock-cost-{name}", root, (), up)
            try:
                container.running()
                line = served(container, "the answer", lambda: line_of(container))
                if name == "source":
                    container.checkpoint()
                else:
                    return counted_words(line) | {"restore_ms": restore_ms(container, hours)}
            finally:
                container.remove()


def restore_ms(container, hours):
    """How long the restore took, on a host that booted so much later."""
    restored = json.loads(container.exec("/opt/freeze/freeze", "status", "--json").stdout)["restore"]
    if (restored["clock"] == "user-space") != bool(hours):
        sys.exit(f"the clock is {restored['clock']}, not what is to be measured")
    return restored["total_ms"]


def in_language(name, options, hours):
    """How long the restore of a program of bench/clocks.py takes."""
    with tempfile.TemporaryDirectory(prefix="freeze-clock-cost.", dir="/var/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        run = Run(f"cost-{name}", programs()[name], options, (hours, 0))
        application = run.application(work)
        source = run.container(application)
        try:
            source.running()
            served(source, "the first answer", lambda: run.program.look(source))
            source.checkpoint()
        finally:
            source.remove()
        target = run.container(application)
        try:
            target.running()
            return restore_ms(target, hours)
        finally:
            target.remove()


def main(opt, times="5"):
    opt, busybox = Path(opt).resolve(), said("integration/sandbox/root", "busybox")
    for prefix in ("clock-cost-", "clocks-cost-"):
        sandbox("clean", prefix)
    measured = {row: [] for row in ROWS}
    for _ in range(int(times)):
        for row, hours in ROWS.items():
            measured[row].append(moved(opt, busybox, hours))
    print(f"| median of {times} | {' | '.join(COLUMNS.values())} |", "|---|" + "---:|" * len(COLUMNS), sep="\n")
    for row, all_of in measured.items():
        cells = (f"{statistics.median(one[column] for one in all_of):.4g}" for column in COLUMNS)
        print(f"| {row} | {' | '.join(cells)} |")
    options = argparse.Namespace(opt=opt, root=root(), services=services())
    restores = {row: {name: [] for name in LANGUAGES} for row in ROWS}
    for _ in range(int(times)):
        for name in LANGUAGES:
            for row, hours in ROWS.items():
                restores[row][name].append(in_language(name, options, hours))
    print(f"\n| ms a restore, median of {times} | {' | '.join(LANGUAGES)} |", "|---|" + "---:|" * len(LANGUAGES), sep="\n")
    for row, of_language in restores.items():
        cells = (f"{statistics.median(of_language[name]):.4g}" for name in LANGUAGES)
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
