import os
import signal
import struct
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import pytest

from ser_batch.errors import AudioError
from ser_batch.runtime.engine import crashing_items
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.process import expect_progress


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
    expect_progress(secs)
    while True:
        pass


def refuse(number: int) -> None:
    raise AudioError("check", f"number {number}")


def die_while_sending(number: int) -> bytes:
    """On 7, die when a part of the result is on its way."""

    def send_a_part(connection: Connection, message: memoryview) -> None:
        os.write(connection.fileno(), struct.pack("!i", len(message)) + bytes(message[:1000]))
        os.kill(os.getpid(), signal.SIGKILL)

    if number == 7:
        Connection._send_bytes = send_a_part  # type: ignore[attr-defined]
    return bytes(100_000)


def has_wave(number: int) -> bool:
    import sys

    return "wave" in sys.modules


def threads_and_modules(number: int) -> tuple[str, list[str]]:
    import sys

    import ser_batch.records.shards  # noqa: F401 - what a worker imports

    heavy = [name for name in ("tensorflow", "librosa", "pandas", "scipy.signal", "numba") if name in sys.modules]
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


def test_a_dead_worker_costs_one_task() -> None:
    with LocalEngine(2) as engine:
        outcomes = {o.task: o for o in engine.map(die_on_seven, range(20))}
    assert len(outcomes) == 20
    assert "SIGKILL" in (outcomes[7].death or "")
    assert [n for n, o in outcomes.items() if o.death] == [7]


@pytest.mark.parametrize("numbers", [range(20), [7]])
def test_a_worker_that_dies_while_it_sends_costs_one_task(numbers: Sequence[int]) -> None:
    with LocalEngine(2) as engine:
        outcomes = list(engine.map(die_while_sending, numbers))
    assert sorted(outcome.task for outcome in outcomes) == list(numbers)
    (dead,) = (outcome for outcome in outcomes if outcome.result is None)
    assert (dead.task, dead.death) == (7, "the worker was killed (SIGKILL, possibly out of memory)")


def test_the_deadly_items_are_found() -> None:
    with LocalEngine(2) as engine:
        deadly = crashing_items(engine, die_if_any_prime, list(range(16)))
    assert set(deadly) == {3, 11}
    assert "SIGABRT" in deadly[3]


def test_a_hang_ends_the_worker() -> None:
    with LocalEngine(1) as engine:
        (outcome,) = engine.map(hang, [0.2])
    assert "no progress" in (outcome.death or "")


def test_what_a_task_raises_arrives_whole() -> None:
    with LocalEngine(1) as engine, pytest.raises(AudioError, match="number 5") as caught:
        list(engine.map(refuse, [5]))
    assert caught.value.stage == "check"


def test_workers_have_one_thread_and_nothing_heavy() -> None:
    with LocalEngine(1) as engine:
        (outcome,) = engine.map(threads_and_modules, [0])
    assert outcome.result == ("1", [])


def test_large_tasks_and_results_do_not_block_each_other() -> None:
    payloads = [bytes(4_000_000)] * 8
    with LocalEngine(2) as engine:
        assert sum(len(o.result or b"") for o in engine.map(bytes, payloads)) == 32_000_000


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
