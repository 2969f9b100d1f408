#!/usr/bin/env python3
"""Times checkpoints that carry what was changed in the container against those that carry open files alone.

    make build && bench/files.py [--rounds N] [--opt DIR]      # as root; prints a table

The image has 5,000 or 100,000 files. The service has made 1,000 files of 64 KiB, and keeps running. "frozen" and "total" are
what the checkpoint reports, in ms: the median of all rounds, and the least and most. The two modes take turns.
"""
import argparse
import json
import os
import statistics
import tempfile

import pids

FOLDER = 20
MADE = 1000
MAKE = f"mkdir /tmp/made && cd /tmp/made && i=0; while [ $i -lt {MADE} ]; do head -c 65536 /dev/urandom >f$i; i=$((i+1)); done; cd /; "


def image(folder, files):
    """A layer of so many small files, in folders of FOLDER."""
    for number in range(files):
        parent = f"{folder}/usr/share/many/{number // FOLDER // 100}/{number // FOLDER % 100}"
        if number % FOLDER == 0:
            os.makedirs(parent, exist_ok=True)
        with open(f"{parent}/{number % FOLDER}", "w") as file:
            file.write(f"{number}\n")
    os.chmod(folder, 0o755)


class Container(pids.Containers):
    def __init__(self, opt, layer, setting, mode, made):
        self.setting, self.mode, self.made_by = setting, mode, MAKE if made else ""
        super().__init__(opt, 1, 1000)
        self.root = f"{layer}:{self.root}"

    def made(self, folder):
        super().made(folder)
        if self.setting == "caps":
            os.chown(folder, 0, 0)
        return folder

    def start(self):
        self.command = ["--files", self.mode, "--", "/bin/sh", "-c", f"{self.made_by}exec /services/service one"]
        self.network = ["--setting", self.setting]
        self.name, self.runtime = super().start()
        pids.running(self.runtime)
        pids.output(pids.SANDBOX, "exec", self.name, "sh", "-c",
                    "until grep -q service /proc/1001/comm; do sleep 0.1; done")

    def checkpoint(self):
        said = pids.output(pids.SANDBOX, "exec", self.name, "/opt/freeze/freeze", "checkpoint", "--leave-running", "--json",
                           "--runtime-dir", "/runtime")
        report = json.loads(said)
        return report["frozen_ms"], report["total_ms"]


def cell(figures):
    return f"{statistics.median(figures):.0f} ({min(figures)} to {max(figures)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--opt", default=f"{pids.TOP}/target/opt", help="the folder of freeze and criu")
    arguments = parser.parse_args()
    print("| files of the image | made | user | open: frozen | changed: frozen | open: total | changed: total |")
    print("|---|---|---|---|---|---|---|")
    for files in (5_000, 100_000):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as layer:
            image(layer, files)
            for setting, user in (("restricted", "1000"), ("caps", "root")):
                for made in (0, MADE):
                    row(arguments, layer, setting, user, files, made)


def row(arguments, layer, setting, user, files, made):
    containers = [Container(arguments.opt, layer, setting, mode, made) for mode in ("open", "changed")]
    figures = [[], []]
    try:
        for container in containers:
            container.start()
            container.checkpoint()
        for _ in range(arguments.rounds):
            for container, list_ in zip(containers, figures):
                list_.append(container.checkpoint())
    finally:
        for container in containers:
            container.remove()
    (open_frozen, open_total), (frozen, total) = (zip(*each) for each in figures)
    cells = [f"{files:,}", f"{made:,}", user, *map(cell, (open_frozen, frozen, open_total, total))]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
