"""Short descriptions of build plans, record folders, bundles, prediction tables, evaluations, cross-validations."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa

from ser_batch.audio.frontends import FrontEnd, preset_name
from ser_batch.corpus.splits import SPLITS
from ser_batch.evaluation.folders import SCORES
from ser_batch.formatting import format_uar, pluralize
from ser_batch.inference.table import read_table_info
from ser_batch.models.bundles import open_bundle
from ser_batch.records.estimates import Estimate
from ser_batch.records.folder import error_parts, open_records
from ser_batch.records.manifest import ERROR_COLUMNS, MANIFEST_COLUMNS
from ser_batch.records.plan import BuildPlan
from ser_batch.reports.kinds import OutputKind, output_kind
from ser_batch.reports.text import cross_validation_lines
from ser_batch.storage.outputs import read_own_json
from ser_batch.storage.tables import counts
from ser_batch.training.recipes import recipe_title

_SHOWN_SPEAKERS = 12
_PRINTED_ERROR_COLUMNS = ("file", "start", "end", "stage", "reason", "sha256")


def describe(path: Path) -> list[str]:
    """Describe an output of ser-batch in a few lines of text.

    Raises:
        SourceError: the path is missing, unfinished or not an output of ser-batch.
    """
    return _DESCRIPTIONS[output_kind(path)](path)


def describe_plan(plan: BuildPlan, estimate: Estimate, workers: int) -> list[str]:
    """Describe a planned build: counts, splits, shards, expected size and time."""
    shards = Counter(shard.split for shard in plan.shards)
    named = ", ".join(f"{split} {shards[split]}" for split in SPLITS if shards[split])
    unusable = f", {estimate.unusable} of them unusable" if estimate.unusable else ""
    return [
        f"{pluralize(len(plan.recordings), 'recording')}; cannot be used: {pluralize(len(plan.rejections), 'input')}",
        f"front end: {_shown(plan.front_end)}",
        f"shards: {named}",
        f"expected, from {pluralize(estimate.measured, 'recording')}{unusable}: "
        f"{pluralize(estimate.examples, 'example')}, "
        f"{estimate.size_bytes / 1e6:,.1f} MB, "
        f"{estimate.secs / workers:,.1f} s of work for {pluralize(workers, 'worker')}",
        "",
        *_census(counts(plan.recordings, "split", "speaker", "label"), plan.labels),
    ]


def manifest_table(folder: Path) -> Iterator[Sequence[str]]:
    """The manifest of a record folder as rows of text, after the names of the columns.

    Raises:
        RecordsError: the folder is not a finished record folder, or a part of its manifest is missing or damaged.
    """
    return chain([MANIFEST_COLUMNS], _texts(open_records(folder).manifest(*MANIFEST_COLUMNS), MANIFEST_COLUMNS))


def error_table(folder: Path) -> Iterator[Sequence[str]]:
    """The unusable recordings of a record folder as rows of text, after the names of the columns.

    Raises:
        RecordsError: the folder is not a record folder, or a part of its manifest is missing or damaged.
    """
    return chain([_PRINTED_ERROR_COLUMNS], _texts(error_parts(folder), ERROR_COLUMNS))


def _texts(tables: Iterable[pa.Table], names: Sequence[str]) -> Iterator[Sequence[str]]:
    for table in tables:
        columns = (table[name].to_pylist() for name in names)
        for values in zip(*columns, strict=True):
            yield ["" if value is None else str(value) for value in values]


def _census(cells: Counter[tuple[str, str | None, str]], labels: Sequence[str]) -> list[str]:
    """Counts as a table: a line for each split and, within it, each speaker; a column for each label.

    Args:
        cells: number of recordings of each split, speaker and label.
        labels: in the order of the columns.
    """
    by_split: Counter[tuple[str, str]] = Counter()
    for (split, _, label), count in cells.items():
        by_split[split, label] += count
    splits = [split for split in SPLITS if any(split == of for of, _ in by_split)]
    width = max(12, *(len(speaker or "") + 2 for _, speaker, _ in cells))
    columns = [max(len(label), 6) + 2 for label in labels]

    def line(name: str, counts: Sequence[int]) -> str:
        shown = "".join(f"{count or '-':>{column}}" for count, column in zip(counts, columns, strict=True))
        return f"{name:{width}}{shown}{sum(counts):9d}"

    header = "".join(f"{label:>{column}}" for label, column in zip(labels, columns, strict=True))
    lines = [f"{'':{width}}{header}{'all':>9}"]
    for split in splits:
        lines.append(line(split, [by_split[split, label] for label in labels]))
        speakers = sorted({speaker for of, speaker, _ in cells if speaker and of == split})
        lines += [
            line(f"  {speaker}", [cells[split, speaker, label] for label in labels])
            for speaker in speakers[:_SHOWN_SPEAKERS]
        ]
        if len(speakers) > _SHOWN_SPEAKERS:
            lines.append(f"  and {pluralize(len(speakers) - _SHOWN_SPEAKERS, 'more speaker')}")
    return lines


def _describe_records(path: Path) -> list[str]:
    records = open_records(path)
    plan = records.provenance.plan
    cells: Counter[tuple[str, str | None, str]] = Counter()
    for table in records.manifest("split", "speaker", "label"):
        cells.update(counts(table, "split", "speaker", "label"))
    return [
        f"record folder {records.path}: {records.summary()}",
        f"front end: {_shown(records.front_end)}",
        f"labels from {plan['label_rule']}; split by {plan['split']['rule']}, seed {plan['split']['seed']}",
        f"fingerprint {records.fingerprint[:12]}, written by ser-batch {records.provenance.version}",
        "",
        *_census(cells, records.labels),
    ]


def _describe_bundle(path: Path) -> list[str]:
    bundle = open_bundle(path)
    training = bundle.training
    return [
        f"bundle {path}: {bundle.summary(recipe_title(training['recipe']))}",
        f"labels: {', '.join(bundle.labels)}",
        f"front end: {_shown(bundle.front_end)}",
        f"normalised by {training['recipe']['normalise']}, temperature {bundle.temperature:.3f}, "
        + (bundle.uncalibrated or f"fitted on {pluralize(bundle.content.fitted_on or 0, 'example')}"),
        f"predictions can adapt to: {', '.join(bundle.adaptations)}",
        f"trained on {training['records_path']} ({training['records'][:12]}), "
        f"{pluralize(training['n_examples']['train'], 'example')}, seed {training['seed']}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in sorted(training["versions"].items())),
        f"fingerprint {bundle.short_fingerprint}",
    ]


def _describe_table(path: Path) -> list[str]:
    table = read_table_info(path)
    return [
        f"prediction table {path} ({table.format}): {pluralize(table.n_rows, 'row')}, "
        f"{table.n_errors:,} of them errors",
        f"model: {', '.join(sorted(table.models))}",
        f"labels: {', '.join(table.labels)}",
    ]


def _describe_evaluation(path: Path) -> list[str]:
    scores = read_own_json(path / SCORES)
    classes = scores.get("classes", {})
    n_scored = sum(one["support"] > 0 for one in classes.values())
    return [
        f"evaluation {path}: split {scores['split']}, {pluralize(scores['recordings'], 'recording')}, "
        f"{format_uar(scores['uar'], n_scored, len(classes))}, WA {scores['wa']:.3f}",
        f"model {scores['model'][:12]}, records {scores['records'][:12]}",
    ]


_DESCRIPTIONS: dict[OutputKind, Callable[[Path], list[str]]] = {
    "records": _describe_records,
    "bundle": _describe_bundle,
    "table": _describe_table,
    "evaluation": _describe_evaluation,
    "cross-validation": cross_validation_lines,
}


def _shown(front_end: FrontEnd) -> str:
    return (
        f"{preset_name(front_end)} ({front_end.rate_hz} Hz, {front_end.n_mels} mel bands, "
        f"{'up to ' if front_end.shorter == 'keep' else ''}{front_end.n_frames} frames, {front_end.length_secs:g} s, "
        f"longer audio: {front_end.longer}, "
        f"channel {front_end.channel})"
    )
