from collections import Counter, defaultdict
from pathlib import Path

import pytest

from ser_batch.audio.corpora import label_recordings
from ser_batch.audio.recordings import Recording, Recordings, list_source
from ser_batch.errors import LabelError, UsageError
from ser_batch.records.splits import SplitPlan, assign_splits, parse_fractions, split_warnings, stable_keys


def recordings(speakers: dict[str, int], label: str = "anger") -> list[Recording]:
    return [
        Recording(f"{speaker}/{number}.wav", f"/{speaker}/{number}.wav", label, speaker)
        for speaker, count in speakers.items()
        for number in range(count)
    ]


def speakers_of(assigned: Recordings) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for recording in assigned:
        splits[recording.split].add(recording.speaker)
    return dict(splits)


def test_no_speaker_stands_in_two_splits_for_any_seed() -> None:
    everyone = Recordings(recordings({f"s{number:02d}": 5 + number for number in range(20)}))
    for seed in range(50):
        splits = speakers_of(assign_splits(everyone, SplitPlan(seed=seed)))
        assert set(Counter(speaker for of_split in splits.values() for speaker in of_split).values()) == {1}


def test_fractions_are_about_met_and_seeds_differ() -> None:
    everyone = recordings({f"s{number:02d}": 50 for number in range(20)})
    assigned = [assign_splits(Recordings(everyone), SplitPlan(seed=seed)) for seed in range(5)]
    for one in assigned:
        assert Counter(r.split for r in one) == {"train": 800, "validation": 100, "test": 100}
    assert len({tuple(sorted(speakers_of(one)["test"])) for one in assigned}) > 1


def test_whole_emodb_is_divided_by_speaker(emodb: Path) -> None:
    labelled = label_recordings(list_source(str(emodb)))
    splits = speakers_of(assign_splits(labelled.recordings, SplitPlan()))
    assert {split: len(speakers) for split, speakers in splits.items()} == {"train": 8, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    ("n_speakers", "splits"), [(1, {"train"}), (2, {"train", "test"}), (3, {"train", "validation", "test"})]
)
def test_few_speakers_fill_train_then_test(n_speakers: int, splits: set[str]) -> None:
    everyone = recordings({f"s{number}": 10 for number in range(n_speakers)})
    assert set(speakers_of(assign_splits(Recordings(everyone), SplitPlan()))) == splits


def test_a_speaker_with_most_recordings_goes_to_train() -> None:
    everyone = recordings({"big": 500} | {f"s{number}": 10 for number in range(12)})
    for seed in range(20):
        assert "big" in speakers_of(assign_splits(Recordings(everyone), SplitPlan(seed=seed)))["train"]


def test_without_speakers_labels_are_divided_alike_and_it_is_said() -> None:
    everyone = [
        Recording(f"{label}/{number}.wav", f"/{label}/{number}.wav", label)
        for label, count in {"anger": 100, "fear": 20}.items()
        for number in range(count)
    ]
    assigned = assign_splits(Recordings(everyone), SplitPlan())
    assert Counter((r.label, r.split) for r in assigned) == {
        ("anger", "train"): 80,
        ("anger", "validation"): 10,
        ("anger", "test"): 10,
        ("fear", "train"): 16,
        ("fear", "validation"): 2,
        ("fear", "test"): 2,
    }
    assert "no speakers are known" in split_warnings(assigned, SplitPlan())[0]


def test_parts_of_one_file_stay_together() -> None:
    parts = [Recording(f"{f}.wav", f"/{f}.wav", "anger", None, None, s, s + 1) for f in range(30) for s in range(4)]
    splits = defaultdict(set)
    for recording in assign_splits(Recordings(parts), SplitPlan("random")):
        splits[recording.path].add(recording.split)
    assert all(len(of_file) == 1 for of_file in splits.values())


def test_speakers_who_share_a_file_share_a_split() -> None:
    calls = [
        Recording(f"{call}.wav", f"/{call}.wav", "anger", speaker, None, start, start + 1)
        for call in range(20)
        for start, speaker in enumerate([f"agent{call % 10}", f"customer{call}", None])
    ]
    for seed in range(10):
        splits = defaultdict(set)
        for recording in assign_splits(Recordings(calls), SplitPlan(seed=seed)):
            splits[recording.path].add(recording.split)
            if recording.speaker:
                splits[recording.speaker].add(recording.split)
        assert all(len(of_one) == 1 for of_one in splits.values())
        assert set().union(*splits.values()) == {"train", "validation", "test"}


def test_a_given_split_stays_and_draws_its_speaker_with_it() -> None:
    everyone = recordings({"a": 10, "b": 10, "c": 10})
    everyone[0] = Recording("a/0.wav", "/a/0.wav", "anger", "a", "test")
    assert {r.split for r in assign_splits(Recordings(everyone), SplitPlan()) if r.speaker == "a"} == {"test"}


def test_an_unknown_given_split_is_refused() -> None:
    with pytest.raises(LabelError, match="'dev' is none of train, validation, test"):
        assign_splits(Recordings([Recording("a.wav", "/a.wav", "anger", "a", "dev")]), SplitPlan())


def test_none_puts_all_into_train() -> None:
    assert {r.split for r in assign_splits(Recordings(recordings({"a": 3, "b": 3})), SplitPlan("none"))} == {"train"}


def test_what_makes_a_score_doubtful_is_said() -> None:
    everyone = recordings({f"s{number}": 10 for number in range(10)})
    everyone += recordings({"s0": 1}, label="rare")
    lines = split_warnings(assign_splits(Recordings(everyone), SplitPlan()), SplitPlan())
    assert any("the test split has 1 of 10 speakers" in line for line in lines)
    assert any("only one speaker (s0) has recordings of rare" in line for line in lines)


@pytest.mark.parametrize("text", ["", "1", "a,b,c", "0.5,0.5,0.5", "-0.1,0.1,1", "nan,0.5,0.5"])
def test_bad_fractions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fractions"):
        parse_fractions(text)


def test_what_orders_recordings_never_changes() -> None:
    assert stable_keys(1, ["a", "b"]).tolist() == [0x03A95B5F06D98DCA, 0x68BE5C7182CDCCA5]
