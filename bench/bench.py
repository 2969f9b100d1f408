#!/usr/bin/env python3
"""Runs the benchmark: the same cells of work for every adapter, interleaved. See README.md."""
import argparse
import itertools
import json
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import time

from probe import one

HERE = os.path.dirname(os.path.abspath(__file__))
SKIP = 77

SUITES = {
    # name: (kind, repetitions, what varies)
    "quick": ("migrate", 3, [{"memory": 0}, {"memory": 128}, {"memory": 128, "processes": 4, "files": 2}]),
    "memory": ("migrate", 5, {"memory": [0, 128, 512, 1024, 2048]}),
    "processes": ("migrate", 3, {"memory": [64], "processes": [1, 2, 4, 8, 16, 64]}),
    "dirty": ("migrate", 3, {"memory": [512], "dirty": [0, 10, 100]}),
    "clock": ("migrate", 5, {"memory": [0, 128], "later": [0, 10]}),
    "frozen": ("checkpoint", 5, {"memory": [0, 128, 512, 1024]}),
    "incremental": ("incremental", 3, {"memory": [512], "touch": [1, 10]}),
    "generations": ("generations", 3, {"memory": [512]}),
    "overhead": ("overhead", 5, {"memory": [16]}),
    "idle": ("idle", 1, {"memory": [16]}),
}
# the metrics of each kind: (title, field, unit)
METRICS = {
    "migrate": [("Downtime", "downtime_ms", "ms"), ("Whole of `migrate`", "migrate_ms", "ms"),
                ("In the store", "bytes", "MiB"), ("Restore", "restore_ms", "ms"),
                ("Restore, on the clock", "clock_ms", "ms"), ("Downtime, on the clock", "clock_downtime_ms", "ms")],
    "checkpoint": [("Frozen time", "frozen_ms", "ms"), ("Whole of `checkpoint`", "checkpoint_ms", "ms"),
                   ("In the store", "bytes", "MiB")],
    "incremental": [("Frozen time, first", "frozen_ms", "ms"), ("Frozen time, second", "frozen2_ms", "ms"),
                    ("Whole of `checkpoint`, second", "checkpoint2_ms", "ms"), ("In the store, first", "bytes", "MiB"),
                    ("Added by the second", "added_bytes", "MiB")],
    "generations": [metric for step, title in
                    (("first", "first"), ("same", "nothing changed"), ("one", "1 % changed"), ("ten", "10 % changed"),
                     ("insert", "a page inserted"))
                    for metric in (("Added, %s" % title, step + "_bytes", "MiB"),
                                   ("Frozen time, %s" % title, "frozen_%s_ms" % step, "ms"),
                                   ("Whole of `checkpoint`, %s" % title, "checkpoint_%s_ms" % step, "ms"))] +
                   [("Peak memory of the tool's process", "peak_kib", "KiB")],
    "overhead": [("Requests a second, kept connections", "rate", "1/s"),
                 ("Requests a second, one connection each", "connect_rate", "1/s"),
                 ("99th percentile, kept connections", "p99_us", "us"), ("Start to first answer", "ready_ms", "ms")],
    "idle": [("RSS of all but the service", "rss_kib", "KiB"), ("PSS of all but the service", "pss_kib", "KiB"),
             ("CPU of all but the service", "cpu_ms", "ms"), ("Processes but the service", "others", "")],
}
CELL = {"memory": 0, "processes": 1, "threads": 1, "dirty": 0, "files": 0, "fill": "mixed", "setting": "privileged",
        "dest": "cold", "net": "host", "touch": 0,
        # hours by which the target's host booted later
        "later": 0}


class Failed(Exception):
    pass


class Adapter:
    def __init__(self, path, args):
        self.path = path if os.sep in path else os.path.join(HERE, "adapters", path)
        self.path = os.path.abspath(self.path)
        if not os.access(self.path, os.X_OK):
            sys.exit("no such adapter: " + path)
        self.name = os.path.basename(path)
        self.opts = {}
        for o in args.opt:
            who, _, kv = o.partition(":")
            if who == self.name:
                k, _, v = kv.partition("=")
                self.opts[k] = v
        self.version, self.skips = "?", {}

    def call(self, cfg, verb, *argv, timeout=600):
        env = dict(os.environ, BENCH_CONFIG=json.dumps(dict(cfg, opts=self.opts)), BENCH_WORK=cfg["work"],
                   PYTHONDONTWRITEBYTECODE="1")
        p = subprocess.Popen([self.path, verb, *argv], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        try:
            out, err = p.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            raise Failed("%s: no end after %d s" % (verb, timeout))
        if p.returncode == SKIP:
            raise Skipped(out.strip() or verb)
        if p.returncode:
            raise Failed("%s: %s" % (verb, (err or out).strip()[-500:] or "exit %d" % p.returncode))
        return out

    def call_json(self, cfg, verb, *argv):
        out = self.call(cfg, verb, *argv).strip()
        try:
            return json.loads(out.splitlines()[-1]) if out else {}
        except ValueError:
            return {}


class Skipped(Exception):
    pass


class Bench:
    def __init__(self, args):
        self.a = args
        self.work = os.path.abspath(args.work)
        self.root = os.path.join(self.work, "root-" + args.root)
        self.serial = 0
        self.service = os.path.join(self.root, "usr/local/bin/bench-service")
        os.makedirs(self.work, exist_ok=True)
        os.chmod(self.work, 0o755)
        flag = ["--debian"] if args.root == "debian" else []
        subprocess.run([os.path.join(HERE, "root.sh"), *flag, self.root], check=True)

    def box(self, *argv):
        return subprocess.run([os.path.join(HERE, "box.sh"), *argv], env=dict(os.environ, BENCH_WORK=self.work),
                              capture_output=True, text=True)

    def config(self, cell):
        self.serial += 1
        rid = "r%d-%d" % (os.getpid(), self.serial)
        state = os.path.join(self.work, "runs", rid)
        os.makedirs(state)
        os.chmod(state, 0o755)
        store = os.path.join(state, "store")
        os.makedirs(store)
        os.chmod(store, 0o1777)
        port = self.a.port
        args = ["--setting", cell["setting"], "--net", cell["net"]]
        if cell["net"] == "pair" and self.a.rate:
            args += ["--rate", self.a.rate]
        if self.a.memory_limit:
            args += ["--memory-limit", str(self.a.memory_limit)]
        if self.a.cpus:
            args += ["--cpus", self.a.cpus]
        slots = (1, 2)
        targets = ["10.213.%d.2:%d" % (s, port) for s in slots] if cell["net"] == "pair" else ["127.0.0.1:%d" % port]
        cfg = {"id": rid, "work": self.work, "state": state, "store": store, "root": self.root,
               "box": os.path.join(HERE, "box.sh"), "criu": os.path.abspath(self.a.criu) if self.a.criu else None,
               "freeze": os.path.abspath(self.a.freeze) if self.a.freeze else None, "setting": cell["setting"], "net": cell["net"], "dest": cell["dest"], "port": port, "targets": targets,
               "data": "/data", "cell": cell}
        for which, slot in zip(("src", "dst"), slots):
            cfg[which + "_args"] = args + ["--id", "%s-%s" % (rid, which)] + (
                ["--slot", str(slot)] if cell["net"] == "pair" else [])
        command = ["bench-service", "--listen", str(port), "--memory", str(cell["memory"]), "--fill", cell["fill"],
                   "--processes", str(cell["processes"]), "--threads", str(cell["threads"]),
                   "--dirty", str(cell["dirty"]), "--files", str(cell["files"])]
        if self.a.early_threads:
            command.append("--early-threads")
        return cfg, command

    def wait_ready(self, cfg, timeout):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for t in cfg["targets"]:
                try:
                    one(t, "get", 2)
                    return t
                except (OSError, ValueError):
                    pass
            time.sleep(0.01)
        raise Failed("the service did not answer within %d s" % timeout)

    def ask(self, cfg, line):
        err = None
        for t in cfg["targets"] * 3:
            try:
                return one(t, line, 120)
            except (OSError, ValueError) as e:
                err = e
                time.sleep(0.05)
        raise Failed("no answer to %r: %s" % (line, err))

    def watched(self, cfg, action, after=0.2):
        """Runs `action` under the probe. Returns its result, its time in ms and the probe's report."""
        argv = [sys.executable, os.path.join(HERE, "probe.py"), "--watch-stdin"]
        for t in cfg["targets"]:
            argv += ["--target", t]
        p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if not select.select([p.stdout], [], [], 30)[0] or p.stdout.readline() != "watching\n":
                raise Failed("the probe got no answers")
            begin = time.monotonic()
            result = action()
            end = time.monotonic()
            self.wait_ready(cfg, 20)
            time.sleep(after)
        except BaseException:
            p.kill()
            p.communicate()
            raise
        out, _ = p.communicate("")
        try:
            report = json.loads(out)
        except ValueError:
            raise Failed("the probe failed")
        if report["ok"] and not report["first_after"] > begin:
            raise Failed("the longest gap was before the action")
        return result, (end - begin) * 1000, report

    def check_state(self, cfg, before, rec):
        """Fails unless the service has everything that it held before the move."""
        ping = self.ask(cfg, "ping")
        if ping["boot"] != before["boot"]:
            raise Failed("another boot number: the service was started afresh")
        if ping["gen"] != before["gen"]:
            raise Failed("generation %d, was %d" % (ping["gen"], before["gen"]))
        if ping["alive"] != ping["procs"]:
            raise Failed("%d of %d processes answer" % (ping["alive"], ping["procs"]))
        begin = time.monotonic()
        after = self.ask(cfg, "sum")
        rec["sum_ms"] = round((time.monotonic() - begin) * 1000, 1)
        if not after["ok"]:
            raise Failed("checksums differ (memory or files)")
        if not cfg["cell"]["dirty"] and after["sum"] != before["sum"]:
            raise Failed("sum %s, was %s" % (after["sum"], before["sum"]))
        if cfg["cell"]["files"]:
            self.ask(cfg, "mark")
            if not self.ask(cfg, "sum")["ok"]:
                raise Failed("files are not written to any more")
        rec["n_after"] = after["n"]

    def inside(self, cfg, which):
        """The PIDs, on this machine, of the processes in a box of this run."""
        try:
            return set(json.loads(self.box("pids", cfg["id"] + "-" + which).stdout or "[]") or [])
        except ValueError:
            return set()

    def check_moved(self, cfg, old):
        """Fails unless the source has ended and the service is in the fresh box."""
        left = {p for p in old if os.path.exists("/proc/%d" % p)
                and not re.search(r"^State:\s[ZX]", open("/proc/%d/status" % p).read(), re.M)}
        if left:
            raise Failed("not moved: %d processes of the source still run" % len(left))
        new = self.inside(cfg, "dst")
        if len(new - old) < cfg["cell"]["processes"]:
            raise Failed("not moved: %d processes in the fresh box" % len(new))

    # ---- kinds of run

    def migrate(self, ad, cfg, rec):
        before = self.ask(cfg, "sum")
        if not before["ok"]:
            raise Failed("wrong sum before the move")
        old = self.inside(cfg, "src")
        result, ms, probe = self.watched(cfg, lambda: ad.call_json(cfg, "migrate"))
        rec["migrate_ms"], rec["phases"], rec["probe"] = round(ms, 1), result.get("phases", {}), probe
        if not probe["ok"]:
            raise Failed("; ".join(probe["problems"]) or "no answers after the move")
        self.check_moved(cfg, old)
        if cfg["net"] == "pair" and probe["target_before"] == probe["target_after"]:
            raise Failed("the longest gap was not the move")
        self.check_state(cfg, before, rec)
        rec["downtime_ms"] = probe["downtime_ms"]
        if "restored" in rec["phases"]:
            rec["restore_ms"] = rec["phases"]["restored"]
        rec["bytes"] = int(ad.call(cfg, "size").strip() or 0)

    def frozen(self, ad, cfg, rec, suffix=""):
        result, ms, probe = self.watched(cfg, lambda: ad.call_json(cfg, "checkpoint"))
        rec["checkpoint%s_ms" % suffix], rec["phases" + suffix], rec["probe" + suffix] = \
            round(ms, 1), result.get("phases", {}), probe
        if not probe["ok"]:
            raise Failed("; ".join(probe["problems"]))
        rec["frozen%s_ms" % suffix] = probe["downtime_ms"]

    def checkpoint(self, ad, cfg, rec):
        before = self.ask(cfg, "sum")
        self.frozen(ad, cfg, rec)
        self.check_state(cfg, before, rec)
        rec["bytes"] = int(ad.call(cfg, "size").strip() or 0)

    def incremental(self, ad, cfg, rec):
        self.frozen(ad, cfg, rec)
        rec["bytes"] = int(ad.call(cfg, "size").strip() or 0)
        self.ask(cfg, "touch %g" % cfg["cell"]["touch"])
        before = self.ask(cfg, "sum")
        self.frozen(ad, cfg, rec, "2")
        rec["added_bytes"] = int(ad.call(cfg, "size").strip() or 0) - rec["bytes"]
        self.check_state(cfg, before, rec)

    def generations(self, ad, cfg, rec):
        """Takes several generations of one service, each after another kind of change."""
        before = 0
        for step, change in (("first", None), ("same", "ping"), ("one", "touch 1"), ("ten", "touch 10"), ("insert", "insert")):
            if change:
                self.ask(cfg, change)
            state = self.ask(cfg, "sum")
            self.frozen(ad, cfg, rec, "_" + step)
            self.check_state(cfg, state, rec)
            size = int(ad.call(cfg, "size").strip() or 0)
            rec[step + "_bytes"], before = size - before, size
        peaks = [rec["phases_" + step].pop("peak_kib", None) for step in ("first", "same", "one", "ten", "insert")]
        if all(peaks):
            rec["peak_kib"] = max(peaks)

    def overhead(self, ad, cfg, rec):
        for key, extra in (("", []), ("connect_", ["--connect"])):
            r = json.loads(subprocess.run([self.service, "--load", cfg["targets"][0], "--seconds", "2", *extra],
                                          capture_output=True, text=True, check=True).stdout)
            rec[key + "rate"], rec[key + "p99_us"] = r["rate"], r["p99_us"]

    def idle(self, ad, cfg, rec):
        def others():
            out = {}
            for pid in self.inside(cfg, "src"):
                try:
                    name = open("/proc/%d/comm" % pid).read().strip()
                    if name == "bench-service":
                        continue
                    f = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
                    inner = re.search(r"^NSpid:.*\s(\d+)$", open("/proc/%d/status" % pid).read(), re.M).group(1)
                    ticks = int(f[11]) + int(f[12])
                    # includes helpers that have come and gone, which PID 1 has reaped
                    ticks += int(f[13]) + int(f[14]) if inner == "1" else 0
                    m = dict(re.findall(r"^(\w+):\s+(\d+) kB", open("/proc/%d/smaps_rollup" % pid).read(), re.M))
                    out[pid] = (name, ticks, int(m["Rss"]), int(m["Pss"]))
                except (OSError, AttributeError, KeyError):
                    continue
            return out
        time.sleep(1)
        a = others()
        time.sleep(self.a.idle_seconds)
        b = others()
        hz = os.sysconf("SC_CLK_TCK")
        rec.update({"rss_kib": sum(x[2] for x in b.values()), "pss_kib": sum(x[3] for x in b.values()),
                    "others": len(b), "names": sorted(x[0] for x in b.values()),
                    "cpu_ms": sum(b[p][1] - a[p][1] if p in a else b[p][1] for p in b) * 1000 / hz})

    # ---- one run

    def run(self, ad, kind, cell):
        rec = {"adapter": ad.name, "kind": kind, "cell": cell, "ok": False}
        cfg, command = self.config(cell)
        try:
            key = cell["setting"]
            if key not in ad.skips:
                try:
                    ad.call(cfg, "prepare")
                    ad.skips[key] = None
                    ad.version = ad.call(cfg, "version").strip()
                except Skipped as e:
                    ad.skips[key] = str(e)
            if ad.skips[key]:
                raise Skipped(ad.skips[key])
            begin = time.monotonic()
            ad.call(cfg, "start", cfg["root"], cfg["store"], "--", *command)
            self.wait_ready(cfg, 60 + cell["memory"] / 20)
            rec["ready_ms"] = round((time.monotonic() - begin) * 1000, 1)
            self.ask(cfg, "mark")
            getattr(self, kind)(ad, cfg, rec)
            rec["ok"] = True
        except Skipped as e:
            rec["skipped"] = str(e)
        except (Failed, subprocess.SubprocessError, KeyError, ValueError, OSError) as e:
            rec["error"] = "%s" % e if isinstance(e, Failed) else "%s: %s" % (type(e).__name__, e)
        finally:
            if "skipped" not in rec or ad.skips.get(cell["setting"]) is None:
                try:
                    ad.call(cfg, "stop", timeout=120)
                except (Failed, Skipped) as e:
                    rec.setdefault("stop_error", str(e))
            left = self.box("list", cfg["id"] + "-").stdout.split()
            if left:
                rec["left_boxes"] = left
                self.box("clean", cfg["id"] + "-")
            if not (self.a.keep and not rec["ok"]):
                shutil.rmtree(cfg["state"], ignore_errors=True)
        return rec


# ---- reporting

def on_the_clock(records):
    """What a move to a host that booted later took longer than one to a host that did not, in the same repetition."""
    for r in records:
        if r["ok"] and r["kind"] == "migrate" and r["cell"]["later"]:
            other = next((o for o in records if o["ok"] and all(o[k] == r[k] for k in ("adapter", "suite", "rep")) and
                          o["cell"] == dict(r["cell"], later=0)), {})
            for field, of in (("clock_ms", "restore_ms"), ("clock_downtime_ms", "downtime_ms")):
                if of in r and of in other:
                    r[field] = r[of] - other[of]


def label(cell, varied):
    out = []
    for k in varied:
        v = cell[k]
        out.append({"memory": "%s MiB", "processes": "%s proc", "dirty": "dirty %s MiB/s", "files": "%s files",
                    "threads": "%s threads", "touch": "%s %% rewritten", "later": "booted %s h later"}.get(k, k + " %s") % v)
    return ", ".join(out) or "-"


def number(v, unit):
    if unit == "MiB":
        v /= 1048576
    if v == 0:
        return "0"
    return "%.0f" % v if abs(v) >= 100 else "%.1f" % v if abs(v) >= 1 else "%.2f" % v


def table(records, adapters, baseline, kind, title, field, unit):
    cells = []
    for r in records:
        if r["kind"] == kind and r["cell"] not in cells:
            cells.append(r["cell"])
    varied = [k for k in CELL if len({str(c[k]) for c in cells}) > 1]
    if "memory" not in varied:
        varied.insert(0, "memory")
    lines = ["", "**%s**%s, median (min to max), ×: ratio to %s in the same repetition" %
             (title, " (%s)" % unit if unit else "", baseline), "",
             "| | " + " | ".join(adapters) + " |", "|---|" + "---|" * len(adapters)]
    found = False
    for cell in cells:
        row = [label(cell, varied)]
        mine = [r for r in records if r["kind"] == kind and r["cell"] == cell]
        base = {r["rep"]: r[field] for r in mine if r["adapter"] == baseline and r["ok"] and field in r}
        for ad in adapters:
            rs = [r for r in mine if r["adapter"] == ad]
            v = [r[field] for r in rs if r["ok"] and r.get(field) is not None]
            bad = sum(not r["ok"] and "skipped" not in r for r in rs)
            text = ""
            if v:
                found = True
                text = number(statistics.median(v), unit)
                if len(v) > 1:
                    text += " (%s to %s)" % (number(min(v), unit), number(max(v), unit))
                ratios = [r[field] / base[r["rep"]] for r in rs if r["ok"] and field in r and base.get(r["rep"])]
                if ad != baseline and ratios:
                    text += " ×%.2f" % statistics.median(ratios)
            elif rs and "skipped" in rs[0]:
                text = "skipped"
            if bad:
                text += " %d of %d failed" % (bad, len(rs))
            row.append(text)
        lines.append("| " + " | ".join(row) + " |")
    return lines if found or any("error" in r for r in records) else []


def phase_table(records, adapters, kind):
    lines = []
    for ad in adapters:
        rs = [r for r in records if r["adapter"] == ad and r["kind"] == kind and r["ok"] and r.get("phases")]
        if not rs:
            continue
        names = []
        for r in rs:
            names += [n for n in r["phases"] if n not in names]
        cells = []
        for r in rs:
            if r["cell"] not in cells:
                cells.append(r["cell"])
        varied = [k for k in CELL if len({str(c[k]) for c in cells}) > 1]
        lines += ["", "Phases of %s (ms, medians)" % ad, "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for cell in cells:
            row = [label(cell, varied)]
            for n in names:
                v = [r["phases"][n] for r in rs if r["cell"] == cell and n in r["phases"]]
                row.append(number(statistics.median(v), "ms") if v else "")
            lines.append("| " + " | ".join(row) + " |")
    return lines


def report(machine, records, adapters, baseline):
    lines = ["Machine: " + machine["text"], "", "Adapters: " + "; ".join("%s (%s)" % x for x in machine["adapters"].items())]
    if machine.get("limits"):
        lines += ["", "**Floors of this machine**, measured in the same run", "", "| | |", "|---|---|"]
        lines += ["| %s | %s |" % (k.replace("_", " "), v) for k, v in machine["limits"].items()]
    for suite in dict.fromkeys(r["suite"] for r in records):
        rs = [r for r in records if r["suite"] == suite]
        kind = rs[0]["kind"]
        reps = max(r["rep"] for r in rs) + 1
        ok = sum(r["ok"] for r in rs)
        lines += ["", "## %s" % suite, "", "%d repetitions, interleaved; %d of %d runs good." % (reps, ok, len(rs))]
        for title, field, unit in METRICS[kind]:
            lines += table(rs, adapters, baseline, kind, title, field, unit)
        noise = [r["probe"]["noise_max_ms"] for r in rs if r["ok"] and r.get("probe", {}).get("noise_max_ms")]
        if noise:
            lines += ["", "The longest other gap between answers (noise): median %.1f ms, worst %.1f ms." %
                      (statistics.median(noise), max(noise))]
        lines += phase_table(rs, adapters, kind)
        errors = [r for r in rs if "error" in r]
        for r in errors[:10]:
            lines += ["", "Failed: %s, %s: %s" % (r["adapter"], label(r["cell"], ["memory", "processes", "dirty"]),
                                                  r["error"].replace("\n", " ")[:300])]
        for why in sorted({"Skipped: %s: %s" % (r["adapter"], r["skipped"]) for r in rs if "skipped" in r}):
            lines += ["", why]
    return "\n".join(lines) + "\n"


def plots(records, adapters, out):
    try:
        import matplotlib
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return []
    made = []
    for x, title in (("memory", "memory (MiB)"), ("processes", "processes")):
        rs = [r for r in records if r["suite"] == x and r["ok"] and "downtime_ms" in r]
        if not rs:
            continue
        fig, ax = plt.subplots(figsize=(7, 4.5))
        for ad in adapters:
            xs = sorted({r["cell"][x] for r in rs if r["adapter"] == ad})
            vs = [[r["downtime_ms"] for r in rs if r["adapter"] == ad and r["cell"][x] == v] for v in xs]
            if not xs:
                continue
            med = [statistics.median(v) for v in vs]
            ax.errorbar(xs, med, yerr=[[m - min(v) for m, v in zip(med, vs)], [max(v) - m for m, v in zip(med, vs)]],
                        marker="o", capsize=3, label=ad)
        ax.set_xlabel(title)
        ax.set_ylabel("downtime (ms)")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=.3)
        ax.legend()
        path = os.path.join(out, "downtime-%s.png" % x)
        fig.tight_layout()
        fig.savefig(path, dpi=120)
        plt.close(fig)
        made.append(path)
    return made


def machine_facts():
    model = next((x.split(":", 1)[1].strip() for x in open("/proc/cpuinfo") if x.startswith("model name")), "?")
    mem = int(next(x.split()[1] for x in open("/proc/meminfo") if x.startswith("MemTotal"))) / 1048576
    try:
        thp = re.search(r"\[(\w+)\]", open("/sys/kernel/mm/transparent_hugepage/enabled").read()).group(1)
    except (OSError, AttributeError):
        thp = "?"
    runc = subprocess.run(["runc", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    return "%d × %s, %.0f GiB, kernel %s, THP %s, %s, load %.2f at the start" % (
        os.cpu_count(), model, mem, os.uname().release.split("-")[0], thp, runc, os.getloadavg()[0])


def expand(suite, args):
    kind, reps, vary = SUITES[suite]
    override = {}
    for k, conv in (("memory", int), ("processes", int), ("dirty", int), ("files", int), ("threads", int), ("touch", float),
                    ("later", int), ("fill", str), ("setting", str), ("dest", str), ("net", str)):
        v = getattr(args, k)
        if v:
            override[k] = [conv(x) for x in v.split(",")]
    if isinstance(vary, list):
        cells = [dict(CELL, **c) for c in vary]
        keys = list(override)
        cells = [dict(c, **dict(zip(keys, v))) for c in cells for v in itertools.product(*override.values())]
    else:
        vary = dict(vary, **override)
        cells = [dict(CELL, **dict(zip(vary, v))) for v in itertools.product(*vary.values())]
    unique = [c for i, c in enumerate(cells) if c not in cells[:i]]
    return kind, args.reps or reps, unique


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--suite", action="append", choices=sorted(SUITES), help="may be given more than once; default quick")
    p.add_argument("--adapter", action="append", help="a name under adapters/ or a path; more than once")
    p.add_argument("--baseline", help="the adapter ratios refer to (default: the first)")
    p.add_argument("--criu", default=os.environ.get("BENCH_CRIU") or shutil.which("criu"), help="a static criu")
    p.add_argument("--freeze", default=os.environ.get("BENCH_FREEZE"), help="the folder of freeze and its criu")
    p.add_argument("--work", default="/var/tmp/freeze-bench")
    p.add_argument("--out", help="where results go (default: WORK/results/TIME)")
    p.add_argument("--opt", action="append", default=[], metavar="ADAPTER:KEY=VALUE")
    p.add_argument("--reps", type=int)
    for k in ("memory", "processes", "dirty", "files", "threads", "touch", "later", "fill", "setting", "dest", "net"):
        p.add_argument("--" + k, help="a comma-separated list, in place of the suite's")
    p.add_argument("--rate", default="1gbit", help="link rate with --net pair; empty for none")
    p.add_argument("--memory-limit", type=int, default=0, help="MiB, of each box")
    p.add_argument("--cpus", default="", help="CPUs the boxes may use")
    p.add_argument("--port", type=int, default=17811)
    p.add_argument("--root", choices=["busybox", "debian"], default="busybox")
    p.add_argument("--early-threads", action="store_true", help="threads of the service start before its children")
    p.add_argument("--idle-seconds", type=float, default=30)
    p.add_argument("--limits", choices=["yes", "no", "long"], default="yes")
    p.add_argument("--keep", action="store_true", help="keep the files of failed runs")
    args = p.parse_args()
    if os.geteuid():
        sys.exit("bench: needs root, for the boxes")
    # a python3 in PATH may be a shim that starts more slowly than what is measured
    os.environ["PATH"] = os.path.dirname(sys.executable) + ":" + os.environ["PATH"]
    suites = args.suite or ["quick"]
    names = args.adapter or ["criu-tmpfs", "freeze"]
    if not args.adapter and set(suites) <= {"overhead", "idle"}:
        names = ["none"] + names
    adapters = [Adapter(n, args) for n in names]
    order = [a.name for a in adapters]
    baseline = args.baseline or order[0]
    b = Bench(args)
    out = os.path.abspath(args.out or os.path.join(b.work, "results", time.strftime("%Y%m%d-%H%M%S")))
    os.makedirs(out, exist_ok=True)
    machine = {"type": "machine", "text": machine_facts(), "argv": sys.argv[1:]}
    if args.limits != "no":
        cmd = [os.path.join(HERE, "limits.sh"), "--json", "--work", b.work] + (["--long"] if args.limits == "long" else [])
        r = subprocess.run(cmd, capture_output=True, text=True)
        machine["limits"] = json.loads(r.stdout) if r.returncode == 0 else {"limits.sh failed": r.stderr.strip()[-200:]}
    records = []
    log = open(os.path.join(out, "results.jsonl"), "w")
    interrupted = False
    try:
        for suite in suites:
            kind, reps, cells = expand(suite, args)
            for rep in range(reps):
                for cell in cells:
                    turn = (rep % len(adapters))
                    for ad in adapters[turn:] + adapters[:turn]:
                        rec = b.run(ad, kind, cell)
                        rec.update({"suite": suite, "rep": rep, "time": time.time()})
                        records.append(rec)
                        log.write(json.dumps(rec) + "\n")
                        log.flush()
                        main_field = METRICS[kind][0][1]
                        print("%s %d/%d %-16s %-40s %s" % (
                            suite, rep + 1, reps, ad.name, label(cell, ["memory", "processes", "dirty"]),
                            "%s %s" % (main_field, rec[main_field]) if rec["ok"] else
                            rec.get("skipped") or "FAILED " + " ".join(rec.get("error", "").split())), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        interrupted = True
    machine["adapters"] = {a.name: a.version for a in adapters}
    log.write(json.dumps(machine) + "\n")
    log.close()
    if records:
        on_the_clock(records)
        text = report(machine, records, order, baseline)
        with open(os.path.join(out, "report.md"), "w") as f:
            f.write(text)
        print(text)
        for path in plots(records, order, out):
            print("plot: " + path, file=sys.stderr)
    print("results: " + out, file=sys.stderr)
    sys.exit(130 if interrupted else 0 if all(r["ok"] or "skipped" in r for r in records) else 1)


if __name__ == "__main__":
    main()
