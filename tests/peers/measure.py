"""Runs a command and writes what it took: {"seconds", "peak_mib", "exit"}, as the system counts it.

Usage: measure.py RESULT.json COMMAND...
A program of its own because a process starts with its parent's resident set on its account, and this one is small.
"""

import json
import os
import subprocess
import sys
import time

started = time.monotonic()
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
with open(sys.argv[1], "w") as file:
    json.dump({"seconds": time.monotonic() - started, "peak_mib": usage.ru_maxrss / 1024, "exit": process.returncode}, file)
