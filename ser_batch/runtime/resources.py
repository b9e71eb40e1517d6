"""CPUs and memory that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def usable_memory(own_groups: Path = Path("/proc/self/cgroup"), mount: Path = _CGROUPS) -> int:
    """Bytes that this process may use: of the machine, or the least limit of its control groups and those above them.

    Args:
        own_groups: the groups of the process (cgroups(7), version 1 and 2).
        mount: where the groups are.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(own_groups, mount)])


def _limits(own_groups: Path, mount: Path) -> Iterator[int]:
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:  # no control groups
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            bases, name = (mount, mount / "unified"), "memory.max"
        elif "memory" in controllers.split(","):
            bases, name = (mount / "memory", mount / controllers), "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that of the host: then its parts do not exist, and the mount is the group.
        parts = [part for part in group.split("/") if part not in {"", ".."}]
        for base in bases:
            for depth in range(len(parts) + 1):
                try:
                    yield int(base.joinpath(*parts[:depth], name).read_text())
                except (OSError, ValueError):  # no such group, or "max"
                    continue
