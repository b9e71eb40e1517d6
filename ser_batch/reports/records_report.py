"""The report page of a record folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.splits import SPLITS
from ser_batch.formatting import pluralize
from ser_batch.inference.summaries import error_pattern
from ser_batch.records.examples import Example
from ser_batch.records.folder import RecordFolder, error_parts, open_records
from ser_batch.records.reader import read_examples, row_selection
from ser_batch.reports.drawing import bars, histogram, log_mels
from ser_batch.reports.page import Cell, Page, Picture, Section, Table
from ser_batch.reports.text import duration_text
from ser_batch.storage.tables import counts

_SHOWN_SPEAKERS = 300
_SHOWN_LABELS = 12
_SEARCHED_EXAMPLES = 2_000
_BINS = 24


def records_page(folder: Path) -> Page:
    """The page of a record folder.

    Raises:
        RecordsError: it is not a finished record folder, or damaged.
    """
    records = open_records(folder)
    cells: Counter[tuple[str, str | None, str]] = Counter()
    durations = []
    for table in records.manifest("split", "speaker", "label", "duration"):
        cells.update(counts(table, "split", "speaker", "label"))
        durations.append(table["duration"].to_numpy().astype(np.float64))
    secs = np.concatenate(durations) if durations else np.empty(0)
    speakers = {speaker for _, speaker, _ in cells if speaker}
    facts = [
        ("recordings", f"{records.n_examples():,}"),
        ("speakers", f"{len(speakers):,}"),
        ("labels", f"{len(records.labels)}"),
        ("audio", duration_text(float(secs.sum()))),
        ("errors", f"{records.provenance.errors:,}"),
        ("size", f"{sum(shard.bytes for shard in records.shards()) / 1e6:,.1f} MB"),
        ("fingerprint", records.fingerprint[:12]),
    ]
    sections = [_labels(records, cells), _speakers(records, cells), _durations(secs), _examples(records)]
    plan = records.provenance.plan
    subtitle = f"labels from {plan['label_rule']}; split by {plan['split']['rule']}, seed {plan['split']['seed']}"
    return Page(f"Records: {folder.name}", subtitle, [], facts, [one for one in [*sections, _problems(folder)] if one])


def _labels(records: RecordFolder, cells: Counter[tuple[str, str | None, str]]) -> Section:
    by_split: Counter[tuple[str, str]] = Counter()
    for (split, _, label), count in cells.items():
        by_split[split, label] += count
    splits = [split for split in SPLITS if records.n_examples(split)]
    rows: list[list[Cell]] = []
    for label in records.labels:
        of_label = [by_split[split, label] for split in splits]
        rows.append([label, sum(of_label), *of_label])
    table = Table("labels", "Recordings of each label and split", ["label", "all", *splits], rows)
    of_labels = [sum(by_split[split, label] for split in splits) for label in records.labels]
    picture = Picture(
        "label-counts",
        "Recordings of each label",
        ", ".join(f"{row[0]} {row[1]}" for row in rows),
        lambda: bars(records.labels, of_labels, "recordings"),
        table,
    )
    return Section("Labels and splits", pictures=[picture], tables=[table])


def _speakers(records: RecordFolder, cells: Counter[tuple[str, str | None, str]]) -> Section | None:
    by_speaker: dict[tuple[str, str], Counter[str]] = {}
    for (split, speaker, label), count in cells.items():
        if speaker:
            by_speaker.setdefault((speaker, split), Counter())[label] += count
    if not by_speaker:
        return None
    rows: list[list[Cell]] = [
        [speaker, split, of.total(), *(of[label] for label in records.labels)]
        for (speaker, split), of in sorted(by_speaker.items())
    ]
    caption = "Recordings of each speaker and label"
    if len(rows) > _SHOWN_SPEAKERS:
        caption += f", the first {_SHOWN_SPEAKERS} of {len(rows):,} rows"
    table = Table("speakers", caption, ["speaker", "split", "all", *records.labels], rows[:_SHOWN_SPEAKERS])
    return Section("Speakers", tables=[table])


def _durations(secs: NDArray[np.float64]) -> Section | None:
    if not len(secs):
        return None
    found, edges = np.histogram(secs, _BINS)
    data = [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], found, strict=True)]
    text = f"Median {np.median(secs):.2f} s, from {secs.min():.2f} to {secs.max():.2f} s."
    picture = Picture(
        "durations",
        f"Duration of the recordings. {text}",
        f"Histogram of the durations. {text}",
        lambda: histogram(found, edges, "duration, s", "recordings"),
        Table("durations", "Durations", ["from, s", "to, s", "recordings"], data),
    )
    return Section("Durations", pictures=[picture])


def _examples(records: RecordFolder) -> Section | None:
    everything = row_selection(records, "all", np.ones(records.n_examples(), np.bool_))
    if not everything.n_examples:
        return None
    first: dict[int, Example] = {}
    for example in islice(read_examples(records, everything), _SEARCHED_EXAMPLES):
        first.setdefault(example.label, example)
        if len(first) == min(len(records.labels), _SHOWN_LABELS):
            break
    shown = [first[label] for label in sorted(first)]
    names = [records.labels[one.label] for one in shown]
    front_end = records.front_end
    data = [(name, one.file, one.log_mel.shape[1]) for name, one in zip(names, shown, strict=True)]
    picture = Picture(
        "log-mels",
        "Log-mel spectrogram of one recording of each label: frequency in Hz over time in seconds, level in dB",
        f"Log-mel spectrograms of {', '.join(names)}",
        lambda: log_mels([one.log_mel for one in shown], names, front_end),
        Table("log-mels", "Examples", ["label", "file", "frames"], data),
    )
    return Section("Examples", pictures=[picture])


def _problems(folder: Path) -> Section | None:
    records, reasons = open_records(folder), Counter[str]()
    for table in error_parts(folder):
        reasons.update(error_pattern(reason) for reason in table["error"].to_pylist())
    tables: list[Table] = []
    warnings: Sequence[tuple[str, int]] = sorted(records.provenance.warnings.items(), key=lambda item: -item[1])
    if warnings:
        tables.append(Table("warnings", "Recordings with warnings", ["warning", "recordings"], warnings))
    if reasons:
        caption = f"{pluralize(reasons.total(), 'recording')} that cannot be used"
        tables.append(Table("errors", caption, ["reason", "recordings"], reasons.most_common(100)))
    return Section("Warnings and errors", tables=tables) if tables else None
