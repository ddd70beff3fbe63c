#!/usr/bin/env python3
"""stop_drivers SECONDS: end the runs whose drivers are on this machine, and wait until they have.

The preStop hook of a head: SIGTERM makes a driver publish a checkpoint and leave with a code of its own, so
that the Jobs API calls the job failed and a RayJob starts it again, which resumes. `ray job stop` would
call it stopped, and nobody would start it again.
"""

from __future__ import annotations

import sys
import time

import psutil

NEIGHBOURS_S = 3.0
"""Workers that are told to go at the same moment still find the head for so long."""


def is_driver(command: list[str]) -> bool:
    """Whether a process's command line is Python running `syn2co` or `python -m syn2co_ray.cli`."""
    if not command or "python" not in command[0].rpartition("/")[2]:
        return False
    names = [word.rpartition("/")[2] for word in command[1:3]]
    return names[:1] == ["syn2co"] or names == ["-m", "syn2co_ray.cli"]


def drivers() -> list[psutil.Process]:
    """Drivers on this machine that this user may see."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and is_driver(process.info["cmdline"])
    ]


def stop(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Send SIGTERM, wait, and return those still there."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(processes, timeout=timeout_s)
    return left


def main() -> int:
    """The command; 1 when drivers are still there at the end."""
    left = stop(drivers(), float(sys.argv[1]) - NEIGHBOURS_S)
    for process in left:
        print(f"{process.pid} is still publishing; it will be killed", file=sys.stderr)
    time.sleep(NEIGHBOURS_S)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
