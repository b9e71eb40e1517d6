import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ser_batch.errors import AudioError
from ser_batch.runtime.engine import crashing_items
from ser_batch.runtime.local import LocalEngine


def square(number: int) -> int:
    return number * number


def slow_if_even(number: int) -> int:
    time.sleep(0.2 if number % 2 == 0 else 0)
    return number


def die_on_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_if_any_prime(numbers: list[int]) -> None:
    if {3, 11} & set(numbers):
        os.abort()


def hang(secs: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, secs)
    while True:
        pass


def refuse(number: int) -> None:
    raise AudioError("check", f"number {number}")


def pid_of(number: int) -> int:
    return os.getpid()


def print_pids() -> None:
    """What the workers' process ids are; then this process is killed while they work."""
    with LocalEngine(2) as engine:
        pids = {outcome.result for outcome in engine.map(pid_and_wait, range(2))}
        print(*pids, flush=True)
        for _ in engine.map(time.sleep, [0, 60, 60]):
            os.kill(os.getpid(), signal.SIGKILL)


def pid_and_wait(number: int) -> int:
    time.sleep(0.5)
    return os.getpid()


def is_alive(pid: str) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def has_wave(number: int) -> bool:
    import sys

    return "wave" in sys.modules


def threads_and_modules(number: int) -> tuple[str, list[str]]:
    import sys

    import ser_batch.records.shards  # noqa: F401 - what a worker imports

    heavy = [
        name
        for name in ("tensorflow", "librosa", "pandas", "scipy.signal", "numba", "pyarrow.compute", "pyarrow.dataset")
        if name in sys.modules
    ]
    return os.environ["OMP_NUM_THREADS"], heavy


def test_every_task_has_one_outcome() -> None:
    with LocalEngine(3) as engine:
        outcomes = list(engine.map(square, range(50)))
    assert sorted((o.task, o.result) for o in outcomes) == [(n, n * n) for n in range(50)]


def test_outcomes_come_as_tasks_end() -> None:
    with LocalEngine(2) as engine:
        list(engine.map(square, range(4)))
        first = next(iter(engine.map(slow_if_even, [0, 1])))
    assert first.task == 1


def test_a_worker_that_dies_before_its_next_task_is_given_loses_none() -> None:
    """The next task is given to a worker that died at its first, before anybody looked at the outcome."""

    def tasks() -> Iterator[int]:
        yield 7
        time.sleep(2)
        yield from range(8, 12)

    with LocalEngine(1) as engine:
        outcomes = {outcome.task: outcome for outcome in engine.map(die_on_seven, tasks())}
    assert sorted(outcomes) == [7, 8, 9, 10, 11]
    assert "SIGKILL" in str(outcomes[7].failure)
    assert [outcomes[task].result for task in range(8, 12)] == [8, 9, 10, 11]


def test_a_dead_worker_costs_one_task() -> None:
    with LocalEngine(2) as engine:
        outcomes = {o.task: o for o in engine.map(die_on_seven, range(20))}
    assert len(outcomes) == 20
    assert "SIGKILL" in (outcomes[7].failure or "")
    assert [n for n, o in outcomes.items() if o.failure] == [7]


def test_a_large_result_is_refused() -> None:
    """Half of it could be on its way when its worker dies."""
    with LocalEngine(2) as engine, pytest.raises(RuntimeError, match=r"returned 16,0\d\d bytes; it may return 16,000"):
        list(engine.map(bytes, [16_000]))


def test_the_deadly_items_are_found() -> None:
    with LocalEngine(2) as engine:
        deadly = crashing_items(engine, die_if_any_prime, list(range(16)))
    assert set(deadly) == {3, 11}
    assert "SIGABRT" in deadly[3]


def test_a_hang_ends_the_worker() -> None:
    with LocalEngine(1) as engine:
        (outcome,) = engine.map(hang, [0.2])
    assert "no progress" in (outcome.failure or "")


def test_what_a_task_raises_arrives_whole() -> None:
    with LocalEngine(1) as engine, pytest.raises(AudioError, match="number 5") as caught:
        list(engine.map(refuse, [5]))
    assert caught.value.stage == "check"


def test_workers_have_one_thread_and_nothing_heavy() -> None:
    with LocalEngine(1) as engine:
        (outcome,) = engine.map(threads_and_modules, [0])
    assert outcome.result == ("1", [])


def test_large_tasks_and_many_results_do_not_block_each_other() -> None:
    payloads = [bytes(4_000_000)] * 8
    with LocalEngine(2) as engine:
        assert sum(o.result or 0 for o in engine.map(len, payloads)) == 32_000_000
        assert sum(len(o.result or b"") for o in engine.map(bytes, [15_000] * 200)) == 3_000_000


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_while_it_waits_costs_nothing(signum: int) -> None:
    with LocalEngine(1) as engine:
        (first,) = engine.map(pid_of, [0])
        os.kill(first.result or 0, signum)
        time.sleep(0.2)
        (second,) = engine.map(pid_of, [0])
    assert second.result not in (None, first.result)


def test_workers_end_with_their_parent() -> None:
    """Even with one that is killed."""
    code = "from tests.runtime.test_local import print_pids; print_pids()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    pids = ended.stdout.split()
    assert (ended.returncode, len(pids)) == (-signal.SIGKILL, 2)
    ends = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_workers_started_ahead_have_imported_and_are_used() -> None:
    with LocalEngine(2) as engine:
        engine.start(5, "wave")
        outcomes = list(engine.map(has_wave, range(8)))
    assert {o.result for o in outcomes} == {True}


def test_leaving_early_ends_the_workers() -> None:
    with LocalEngine(2) as engine:
        for _ in engine.map(slow_if_even, range(100)):
            break
        began = time.perf_counter()
        assert len(list(engine.map(square, [1, 2]))) == 2
    assert time.perf_counter() - began < 10


def test_a_map_inside_a_map_does_not_mix_outcomes() -> None:
    with LocalEngine(2) as engine:
        for outer in engine.map(square, range(10)):
            assert outer.result == outer.task**2
            assert [inner.result for inner in engine.map(square, [outer.task + 100])] == [(outer.task + 100) ** 2]
