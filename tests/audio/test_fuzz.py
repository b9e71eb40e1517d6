"""Damaged recordings of every format: each ends as examples or as one refusal, and none ends its worker."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from ser_batch.audio.frontends import SPEECH
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.records.build import build_records
from ser_batch.records.manifest import REJECTED
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.runtime.local import LocalEngine
from tests.conftest import write_tone
from tests.deadly import DeadlyEngine
from tests.manifests import edit_part
from tools import fuzz_audio
from tools.audio_truth import KINDS, Finding, TruthSummary, check_case, check_truth
from tools.fuzz_audio import (
    INTACT,
    MUTATIONS,
    FuzzSummary,
    Intact,
    MeasuringEngine,
    count,
    encode_all,
    fuzz,
    make_mutant,
)

MUTANTS = 2000


@pytest.fixture(scope="module")
def intact(emodb_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Intact:
    return encode_all(sorted(emodb_sample.iterdir()), tmp_path_factory.mktemp("intact"))


def test_every_mutant_is_an_example_or_a_refusal(intact: Intact) -> None:
    summary = FuzzSummary()
    with LocalEngine(2) as local:
        engine = MeasuringEngine(local, workers=2)
        fuzz(range(MUTANTS), 0, intact, engine, summary)
    assert not summary.wrong
    assert not summary.crashes
    assert summary.outcomes.total() == MUTANTS
    stages = Counter(outcome.split(":")[0] for outcome in summary.outcomes.elements())
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
    summary = FuzzSummary()
    with LocalEngine(2) as engine:
        fuzz(range(8), 0, intact, DeadlyEngine(engine, deadly, signal.SIGSEGV), summary, tmp_path)
    assert summary.crashes == [f"{deadly}: the worker crashed (SIGSEGV)"]
    assert summary.outcomes["worker: the worker crashed"] == 1
    assert (tmp_path / deadly).read_bytes() == make_mutant(3, 0, intact)[1]
    assert not summary.wrong


def test_an_uncaught_error_is_reported_with_its_mutant(intact: Intact, monkeypatch: pytest.MonkeyPatch) -> None:
    senseless = SPEECH.model_copy(update={"channel": "left"})  # compared with a number once a recording is open
    monkeypatch.setattr(fuzz_audio, "_FRONT_ENDS", (senseless,))
    summary = FuzzSummary()
    with LocalEngine(2) as engine:
        fuzz(range(8), 0, intact, engine, summary)
    assert summary.wrong[0].startswith("the build ended: TypeError")
    assert summary.culprits
    assert not summary.outcomes


def test_what_is_lost_or_told_twice_is_noticed(tmp_path: Path) -> None:
    for file in (INTACT, "wav/a.wav", "wav/b.wav"):
        write_tone(tmp_path / "in" / file)
    labelled = label_recordings(list_source(str(tmp_path / "in")), "folder")
    plan = plan_build(labelled, BuildOptions(SPEECH, SplitPlan("none")))
    with LocalEngine(1) as engine:
        records = build_records(plan, tmp_path / "out", engine).records
    summary = FuzzSummary()
    count(records, {"wav/a.wav", "wav/b.wav"}, summary)
    assert not summary.wrong
    row = {"file": "wav/b.wav", "start": 0.0, "stage": "decode", "error": "is damaged"}
    edit_part(records.path, REJECTED, lambda rows: [*rows, row])
    count(records, {"wav/a.wav", "wav/b.wav", "wav/c.wav"}, summary)
    assert summary.culprits == {"wav/b.wav", "wav/c.wav"}


def test_no_audio_is_lost_without_a_word(emodb_sample: Path) -> None:
    wavs = sorted(emodb_sample.glob("*.wav"))
    with LocalEngine(2) as engine:
        summary = check_truth(range(6 * len(KINDS)), 0, wavs, engine)
    assert summary.wrong == []
    assert summary.outcomes.total() == 6 * len(KINDS)
    # All of whole files is read, and most cuts are told.
    assert {reported for treatment, reported in summary.outcomes if treatment == "whole"} == {"length is true"}
    assert summary.outcomes["cut", "cut"] > len(KINDS)


@pytest.mark.parametrize(
    ("finding", "is_wrong"),
    [
        (Finding("wav cut", 2.0, 1.0, 0.1, ""), True),
        (Finding("wav cut", 2.0, 1.0, 0.1, "cut"), False),
        (Finding("wav cut", 2.0, 0.0, 0.1, "error: is damaged"), False),
        (Finding("wav whole", 2.0, 2.05, 0.1, ""), False),
        (Finding("wav whole", 2.0, 2.0, 0.1, "cut"), True),
        (Finding("wav joined", 2.0, 4.0, 0.1, ""), True),
    ],
)
def test_what_counts_as_wrong(finding: Finding, is_wrong: bool) -> None:
    summary = TruthSummary()
    summary.add(finding)
    assert bool(summary.wrong) == is_wrong


def test_a_lost_part_is_found(emodb_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.audio.waveforms._contradicts_header", lambda *_: False)
    wavs = sorted(emodb_sample.glob("*.wav"))
    number = sorted(KINDS).index("wav-pcm_s16le") + len(KINDS)
    assert check_case(number, 0, wavs).is_wrong
