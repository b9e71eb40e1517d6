"""CPUs and memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def usable_memory() -> int:
    """Bytes that this process may use: of the machine, or of its control group."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return machine
