"""killtree.py PID SIGNAL: kills a task as the command executor does, in the order of Mesos' os::killtree(pid, SIGTERM,
true, true).

Stops every process below PID, and in the groups and sessions of those; sends each the signal; lets each go on. PIDs are
those of the host.
"""

import os
import signal
import sys


def processes():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name) as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(name), int(fields[1]), int(fields[2]), int(fields[3])  # PID, parent, group, session


def main(root, name):
    parents = {pid: parent for pid, parent, *_ in processes()}
    above = next((each for each in processes() if each[0] == parents[root]), (0, 0, 0, 0))
    found, queue = [], [root]
    while queue:
        pid = queue.pop(0)
        if pid in found:
            continue
        os.kill(pid, signal.SIGSTOP)
        found.append(pid)
        everyone = list(processes())
        (group, session), = [(each[2], each[3]) for each in everyone if each[0] == pid]
        for each, parent, its_group, its_session in everyone:
            in_group = its_group == group != above[2]
            in_session = its_session == session != above[3]
            if parent == pid or in_group or in_session:
                queue.append(each)
    for number in (getattr(signal, "SIG" + name), signal.SIGCONT):
        for pid in found:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


main(int(sys.argv[1]), sys.argv[2])
