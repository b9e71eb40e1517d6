"""Tasks that the nodes of a Ray cluster run in tests."""

import os
import signal
import time
import uuid
from pathlib import Path


def square(task: int) -> int:
    return task * task


def slow_square(task: tuple[int, str]) -> int:
    """Leaves a file for each attempt, with the node that it ran on, and takes a second."""
    import ray

    number, folder = task
    node = ray.get_runtime_context().get_node_id()
    Path(folder, f"{number}-{uuid.uuid4()}").write_text(node)
    time.sleep(1.0)
    return number * number


def deadly_for_three(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def wrong_for_three(task: int) -> int:
    if task == 3:
        raise ValueError("three is wrong")
    return task


def folder_of(task: int) -> str:
    return os.getcwd()
