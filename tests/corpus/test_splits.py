import random
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan, assign_splits, parse_fractions, split_warnings, stable_keys
from ser_batch.corpus.table import Recording, make_table
from ser_batch.corpus.table import recordings as rows
from ser_batch.errors import LabelError, UsageError


def recordings(speakers: dict[str, int], label: str = "anger") -> list[Recording]:
    return [
        Recording(f"{speaker}/{number}.wav", f"/{speaker}/{number}.wav", label, speaker)
        for speaker, count in speakers.items()
        for number in range(count)
    ]


def speakers_of(assigned: pa.Table) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for recording in rows(assigned):
        splits[recording.split].add(recording.speaker)
    return dict(splits)


def test_no_speaker_stands_in_two_splits_for_any_seed() -> None:
    everyone = make_table(recordings({f"s{number:02d}": 5 + number for number in range(20)}))
    for seed in range(50):
        splits = speakers_of(assign_splits(everyone, SplitPlan(seed=seed)))
        assert set(Counter(speaker for of_split in splits.values() for speaker in of_split).values()) == {1}


def test_fractions_are_about_met_and_seeds_differ() -> None:
    everyone = recordings({f"s{number:02d}": 50 for number in range(20)})
    assigned = [assign_splits(make_table(everyone), SplitPlan(seed=seed)) for seed in range(5)]
    for one in assigned:
        assert Counter(r.split for r in rows(one)) == {"train": 800, "validation": 100, "test": 100}
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
    assert set(speakers_of(assign_splits(make_table(everyone), SplitPlan()))) == splits


def test_a_speaker_with_most_recordings_goes_to_train() -> None:
    everyone = recordings({"big": 500} | {f"s{number}": 10 for number in range(12)})
    for seed in range(20):
        assert "big" in speakers_of(assign_splits(make_table(everyone), SplitPlan(seed=seed)))["train"]


LABELS = ("anger", "fear", "joy", "neutral", "sadness")


def labels_of(assigned: pa.Table) -> dict[str, Counter[str]]:
    splits: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter(), "test": Counter()}
    for recording in rows(assigned):
        splits[recording.split or ""][recording.label or ""] += 1
    return splits


def some_of_one_label(chance: random.Random) -> list[Recording]:
    """29 speakers, of whom ten have 38 recordings of one label and nothing else."""
    everyone = recordings({f"sad{number}": 38 for number in range(10)}, label="sadness")
    for number in range(19):
        labels = [chance.choice(LABELS) for _ in range(chance.randint(15, 60))]
        everyone += [
            Recording(f"s{number}/{at}.wav", f"/s{number}/{at}.wav", label, f"s{number:02d}")
            for at, label in enumerate(labels)
        ]
    return everyone


def test_speakers_of_one_label_do_not_fill_a_split() -> None:
    for seed in range(30):
        everyone = some_of_one_label(random.Random(seed))
        splits = labels_of(assign_splits(make_table(everyone), SplitPlan(seed=seed)))
        for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert set(splits[split]) == set(LABELS)
            for label, count in splits[split].items():
                of_split = count / splits[split].total()
                of_all = sum(one.label == label for one in everyone) / len(everyone)
                assert abs(of_split - of_all) < 0.15
            assert 0.5 * share < splits[split].total() / len(everyone) < 2 * share


def test_where_every_speaker_has_one_label_all_labels_are_in_all_splits() -> None:
    everyone = [
        one for label in LABELS for one in recordings({f"{label}{n}": 10 + 3 * n for n in range(6)}, label=label)
    ]
    for seed in range(30):
        splits = labels_of(assign_splits(make_table(everyone), SplitPlan(seed=seed)))
        assert all(set(of_split) == set(LABELS) for of_split in splits.values())
        assert splits["train"].total() > 0.6 * len(everyone)


@pytest.mark.parametrize(("n_speakers", "lacking"), [(1, {"validation", "test"}), (2, {"validation"})])
def test_a_label_of_few_speakers_is_trained_on_then_tested_and_the_rest_is_said(
    n_speakers: int, lacking: set[str]
) -> None:
    everyone = [one for label in LABELS for one in recordings({f"s{n}": 10 for n in range(30)}, label=label)]
    everyone += recordings({f"s{n}": 5 for n in range(n_speakers)}, label="rare")
    for seed in range(10):
        assigned = assign_splits(make_table(everyone), SplitPlan(seed=seed))
        assert {split for split, labels in labels_of(assigned).items() if "rare" not in labels} == lacking
        lines = split_warnings(assigned, SplitPlan(seed=seed))
        for split in ("validation", "test"):
            line = f"the {split} split has no recording of: rare (use cross-validate, or other --fractions or --seed)"
            assert (line in lines) == (split in lacking)


def test_a_split_is_not_doubled_for_the_sake_of_a_label() -> None:
    everyone = recordings({f"s{n:02d}": 10 for n in range(40)}) + recordings({"a": 150, "b": 150}, label="joy")
    for seed in range(10):
        splits = labels_of(assign_splits(make_table(everyone), SplitPlan(seed=seed)))
        assert splits["train"]["joy"] == 300


def test_many_absent_labels_are_counted() -> None:
    everyone = make_table(Recording(f"{n}.wav", f"/{n}.wav", f"l{n:02d}", f"s{n}", "train") for n in range(13))
    everyone = make_table([*rows(everyone), Recording("t.wav", "/t.wav", "l00", "t", "test")])
    (line,) = [line for line in split_warnings(everyone, SplitPlan()) if "no recording of" in line]
    assert line.startswith("the test split has no recording of: l01, l02, ")
    assert "l10 and 2 more (use" in line


def test_the_order_of_recordings_changes_no_split() -> None:
    everyone = some_of_one_label(random.Random(0))
    splits = [
        {one.file: one.split for one in rows(assign_splits(make_table(order), SplitPlan(seed=3)))}
        for order in (everyone, everyone[::-1])
    ]
    assert splits[0] == splits[1]


def test_without_speakers_labels_are_divided_alike_and_it_is_said() -> None:
    everyone = [
        Recording(f"{label}/{number}.wav", f"/{label}/{number}.wav", label)
        for label, count in {"anger": 100, "fear": 20}.items()
        for number in range(count)
    ]
    assigned = assign_splits(make_table(everyone), SplitPlan())
    assert Counter((r.label, r.split) for r in rows(assigned)) == {
        ("anger", "train"): 80,
        ("anger", "validation"): 10,
        ("anger", "test"): 10,
        ("fear", "train"): 16,
        ("fear", "validation"): 2,
        ("fear", "test"): 2,
    }
    assert "no speakers are known, so the splits are random" in split_warnings(assigned, SplitPlan())[0]
    assert "so the splits that are not given are random" in split_warnings(assigned, SplitPlan(), has_given=True)[0]


def test_parts_of_one_file_stay_together() -> None:
    parts = [Recording(f"{f}.wav", f"/{f}.wav", "anger", None, None, s, s + 1) for f in range(30) for s in range(4)]
    splits = defaultdict(set)
    for recording in rows(assign_splits(make_table(parts), SplitPlan("random"))):
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
        for recording in rows(assign_splits(make_table(calls), SplitPlan(seed=seed))):
            splits[recording.path].add(recording.split)
            if recording.speaker:
                splits[recording.speaker].add(recording.split)
        assert all(len(of_one) == 1 for of_one in splits.values())
        assert set().union(*splits.values()) == {"train", "validation", "test"}


def test_a_given_split_stays_and_draws_its_speaker_with_it() -> None:
    everyone = recordings({"a": 10, "b": 10, "c": 10})
    everyone[0] = Recording("a/0.wav", "/a/0.wav", "anger", "a", "test")
    assert {r.split for r in rows(assign_splits(make_table(everyone), SplitPlan())) if r.speaker == "a"} == {"test"}


def test_an_unknown_given_split_is_refused() -> None:
    with pytest.raises(LabelError, match="'dev' is not one of train, validation, test"):
        assign_splits(make_table([Recording("a.wav", "/a.wav", "anger", "a", "dev")]), SplitPlan())


def test_none_puts_all_into_train() -> None:
    assert {r.split for r in rows(assign_splits(make_table(recordings({"a": 3, "b": 3})), SplitPlan("none")))} == {
        "train"
    }


def test_what_makes_a_score_doubtful_is_said() -> None:
    everyone = recordings({f"s{number}": 10 for number in range(10)})
    everyone += recordings({"s0": 1}, label="rare")
    lines = split_warnings(assign_splits(make_table(everyone), SplitPlan()), SplitPlan())
    assert any("the test split has 1 of 10 speakers" in line for line in lines)
    assert any("only one speaker (s0) has recordings of rare" in line for line in lines)


@pytest.mark.parametrize("text", ["", "1", "a,b,c", "0.5,0.5,0.5", "-0.1,0.1,1", "nan,0.5,0.5"])
def test_bad_fractions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fractions"):
        parse_fractions(text)


def test_what_orders_recordings_never_changes() -> None:
    assert stable_keys(1, ["a", "b"]).tolist() == [0x03A95B5F06D98DCA, 0x68BE5C7182CDCCA5]
