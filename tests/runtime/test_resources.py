"""The least memory limit of all control groups that hold the process."""

from pathlib import Path

import pytest

from ser_batch.runtime.resources import usable_memory

MACHINE = usable_memory(Path("/nowhere"), Path("/nowhere"))
MIB = 1 << 20


@pytest.mark.parametrize(
    ("own_groups", "limits", "expected"),
    [
        # Kubernetes, Docker: the group is the root of what the container sees.
        ("0::/\n", {"memory.max": 64 * MIB}, 64 * MIB),
        # systemd: nested groups, of which one above the process has the limit.
        (
            "0::/user.slice/user-1000.slice/session-2.scope\n",
            {"user.slice/memory.max": 512 * MIB, "user.slice/user-1000.slice/memory.max": 256 * MIB},
            256 * MIB,
        ),
        # Slurm with version 1: limits of the job and of the step.
        (
            "11:memory:/slurm/uid_0/job_7/step_0\n5:cpuset:/slurm\n",
            {
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/slurm/uid_0/job_7/memory.limit_in_bytes": 128 * MIB,
                "memory/slurm/uid_0/job_7/step_0/memory.limit_in_bytes": 192 * MIB,
            },
            128 * MIB,
        ),
        # Version 1 in a container that has the host's path and not the host's folders.
        ("4:cpu,memory:/docker/abc\n0::/x\n", {"memory/memory.limit_in_bytes": 96 * MIB}, 96 * MIB),
        ("0::/../..\n", {"memory.max": 32 * MIB}, 32 * MIB),
        ("0::/a\n", {"memory.max": "max", "a/memory.max": "max"}, MACHINE),
        ("0::/a\n", {"b/memory.max": MIB}, MACHINE),
        ("5:cpuset:/a\n", {"memory.max": MIB}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, own_groups: str, limits: dict[str, int | str], expected: int) -> None:
    for name, limit in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    (tmp_path / "own").write_text(own_groups)
    assert usable_memory(tmp_path / "own", tmp_path / "groups") == expected


def test_without_control_groups_it_is_the_machines_memory() -> None:
    assert MACHINE > 1 << 28
    assert 0 < usable_memory() <= MACHINE
