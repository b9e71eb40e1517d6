"""Damaged recordings of every format: each ends as examples or as one refusal, and none ends its worker."""

import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.audio.corpora import label_recordings
from ser_batch.audio.frontend import SPEECH
from ser_batch.audio.recordings import list_source
from ser_batch.engines import LocalEngine
from ser_batch.records.builds import build_records
from ser_batch.records.plans import BuildOptions, plan_build
from ser_batch.records.splits import SplitPlan
from tests.conftest import write_tone
from tests.deadly import DeadlyEngine
from tools import fuzz_audio
from tools.fuzz_audio import INTACT, MUTATIONS, Intact, MeasuringEngine, Tally, count, encode_all, fuzz, make_mutant

MUTANTS = 2000


@pytest.fixture(scope="module")
def intact(emodb_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Intact:
    return encode_all(sorted(emodb_sample.iterdir()), tmp_path_factory.mktemp("intact"))


def test_every_mutant_is_an_example_or_a_refusal(intact: Intact) -> None:
    tally = Tally()
    with LocalEngine(2) as local:
        engine = MeasuringEngine(local, workers=2)
        fuzz(range(MUTANTS), 0, intact, engine, tally)
    assert not tally.wrong
    assert not tally.deaths
    assert tally.outcomes.total() == MUTANTS
    stages = Counter(outcome.split(":")[0] for outcome in tally.outcomes.elements())
    assert stages["example"] > MUTANTS / 4
    assert stages["decode"] > MUTANTS / 4
    assert stages["check"] > MUTANTS / 100
    assert engine.peak_mb < fuzz_audio.MOST_WORKER_MB
    assert engine.longest_secs < 20


def test_a_mutant_depends_on_its_number_and_the_seed_alone(intact: Intact) -> None:
    assert make_mutant(7, 0, intact) == make_mutant(7, 0, intact)
    assert len({make_mutant(number, seed, intact)[1] for number in range(20) for seed in range(2)}) > 35


def test_every_mutation_and_every_format_is_met(intact: Intact) -> None:
    names = [Path(make_mutant(number, 0, intact)[0]) for number in range(400)]
    assert {str(name.parent) for name in names} == set(intact)
    assert all(any(kind in name.stem for name in names) for kind in MUTATIONS)


# --- the fuzzer itself notices


def test_a_mutant_that_ends_its_worker_is_told_and_kept(intact: Intact, tmp_path: Path) -> None:
    deadly = make_mutant(3, 0, intact)[0]
    tally = Tally()
    with LocalEngine(2) as engine:
        fuzz(range(8), 0, intact, DeadlyEngine(engine, deadly, signal.SIGSEGV), tally, tmp_path)
    assert tally.deaths == [f"{deadly}: made its worker crash (SIGSEGV)"]
    assert tally.outcomes["worker: made its worker crash"] == 1
    assert (tmp_path / deadly).read_bytes() == make_mutant(3, 0, intact)[1]
    assert not tally.wrong


def test_an_error_that_nobody_catches_is_told_with_the_mutant(intact: Intact, monkeypatch: pytest.MonkeyPatch) -> None:
    senseless = replace(SPEECH, channel="left")  # compared with a number once a recording is open
    monkeypatch.setattr(fuzz_audio, "_FRONT_ENDS", (senseless,))
    tally = Tally()
    with LocalEngine(2) as engine:
        fuzz(range(8), 0, intact, engine, tally)
    assert tally.wrong[0].startswith("the build ended: TypeError")
    assert tally.culprits
    assert not tally.outcomes


def test_what_is_lost_or_told_twice_is_noticed(tmp_path: Path) -> None:
    for file in (INTACT, "wav/a.wav", "wav/b.wav"):
        write_tone(tmp_path / "in" / file)
    labelled = label_recordings(list_source(str(tmp_path / "in")), "folder")
    plan = plan_build(labelled, BuildOptions(SPEECH, SplitPlan("none")))
    with LocalEngine(1) as engine:
        records = build_records(plan, tmp_path / "out", engine).records
    tally = Tally()
    count(records, {"wav/a.wav", "wav/b.wav"}, tally)
    assert not tally.wrong
    with open(tmp_path / "out" / "errors.csv", "a") as errors:
        errors.write("wav/b.wav,0.0,,decode,is damaged,\n")
    count(records, {"wav/a.wav", "wav/b.wav", "wav/c.wav"}, tally)
    assert tally.culprits == {"wav/b.wav", "wav/c.wav"}
