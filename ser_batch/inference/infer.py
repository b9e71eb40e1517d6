"""Inference: create, continue or update a prediction table."""

import dataclasses
import glob
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ser_batch.audio.channels import Channels, with_channels
from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.table import Listing, Recording, recordings
from ser_batch.errors import OutputError, UsageError
from ser_batch.formatting import pluralize
from ser_batch.inference.adaptation import Groups, find_groups
from ser_batch.inference.embeddings import Embedded, EmbeddingOptions, in_blocks, read_part, remove_part
from ser_batch.inference.predictions import Classifier, Labels, Prediction, classify, predictions_of
from ser_batch.inference.results import (
    ListingChanges,
    TableParts,
    complete_results,
    embed_blocks,
    keys_of,
    open_table_parts,
)
from ser_batch.inference.summaries import TableSummary
from ser_batch.inference.table import FORMATS, Append, TableForm, read_kind, table_format
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.process import temporary_files_removed
from ser_batch.storage.fingerprints import file_sha256
from ser_batch.storage.outputs import differences
from ser_batch.storage.writing import open_atomically, standard_output


@dataclass(frozen=True)
class InferOptions:
    """Options of an inference.

    Attributes:
        windows: one row per window; else one per recording.
        format: csv, parquet or jsonl; None: from the suffix of the table.
        restart: discard an existing table and its results.
        update: keep the results of unchanged files, predict new and changed ones.
        channel: the mean of all channels, one channel, or ``each`` (rows for every channel); None: as in training.
        adapt: what the predictions are adapted to; see `ser_batch.inference.adaptation.find_groups`.
        labels: the labels to show, see `ser_batch.inference.predictions.choose_labels`; None: all of the model.
    """

    windows: bool = False
    format: str | None = None
    restart: bool = False
    update: bool = False
    channel: Channels | None = None
    adapt: Adaptation = "none"
    labels: Labels | None = None


@dataclass(frozen=True)
class InferResult:
    """Result of an inference.

    Attributes:
        summary: counts of the table.
        was_finished: the table was already complete before this run.
        n_known, n_new: number of recordings predicted by earlier runs, and by this run.
        audio_secs: duration of the recordings predicted by this run.
        model: the short fingerprint of the bundle.
        adapt: what the predictions are adapted to.
        bases: for each CSV or list, the folder to which its paths are relative.
    """

    summary: TableSummary
    was_finished: bool = False
    n_known: int = 0
    n_new: int = 0
    audio_secs: float = 0.0
    model: str = ""
    adapt: Adaptation = "none"
    bases: dict[str, str] = field(default_factory=dict)


def infer(
    listing: Listing,
    bundle: Bundle,
    out: str,
    engine: Engine,
    options: InferOptions = InferOptions(),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> InferResult:
    """Predict all recordings of a listing and write the prediction table.

    Args:
        listing: from `ser_batch.corpus.sources.list_source`; its rejected inputs get rows at the end of the table.
        bundle: the model.
        out: path of the table; ``-``: standard output, in SOURCE order, each row as soon as it is complete.
        engine: runs the tasks: decoding, log-mels, embedding.
        options: see `InferOptions`.
        on_progress: called with (recordings done, recordings in all).

    Raises:
        OutputError: the table cannot be written, is in use, or exists with other inputs or settings.
        BundleError: the bundle is damaged.
        UsageError: the options contradict each other, or the suffix gives no format.
    """
    kind = table_format(out, options.format)
    if options.update and (options.restart or out == "-"):
        raise UsageError(f"--update cannot be combined with {'--restart' if options.restart else '--out -'}")
    if out == "-" and options.adapt != "none":
        raise UsageError(f"--adapt {options.adapt}: --out - writes each row at once; give --adapt none, or a file")
    # A reason may contain the path of a list, which may not be valid UTF-8.
    rejections = [
        dataclasses.replace(one, reason=one.reason.encode("utf-8", "backslashreplace").decode())
        for one in listing.rejections
    ]
    if options.channel is not None:
        listing = dataclasses.replace(listing, recordings=with_channels(listing.recordings, options.channel, engine))
    classifier = Classifier.of(bundle, options.labels)  # first: a damaged bundle is an error before any work
    listing = dataclasses.replace(listing, rejections=rejections)
    run = _InferenceRun(listing, bundle, classifier, kind, engine, options, on_progress)
    return run.stream() if out == "-" else run.table(Path(out))


@dataclass(frozen=True)
class _InferenceRun:
    """One call of `infer`."""

    listing: Listing
    bundle: Bundle
    classifier: Classifier
    format: str
    engine: Engine
    options: InferOptions
    on_progress: Callable[[int, int], None]

    def stream(self) -> InferResult:
        """Write rows to standard output in SOURCE order, each as soon as it is complete."""
        summary = TableSummary()
        table = self.listing.recordings
        with temporary_files_removed(), standard_output() as file, self._rows_to(file) as append:
            folder = Path(tempfile.mkdtemp())
            keys = keys_of(self.listing)
            expected, in_order = 0, recordings(table)
            ready: dict[bytes, list[Any]] = {}  # result and figures
            numbered = ((key.as_py(), one) for key, one in zip(keys, recordings(table), strict=False))
            for block, _ in embed_blocks(numbered, len(table), self._embedding, self.engine, folder):
                part = read_part(Path(block.path))
                figures_of = classify(part, None, self.classifier, self.options.windows)
                ready.update((key, pair) for key, *pair in zip(block.keys, part, figures_of, strict=True))
                remove_part(Path(block.path))
                while expected < len(table) and (found := ready.pop(keys[expected].as_py(), None)):
                    one, (result, figures) = next(in_order), found
                    rows = predictions_of(result, one, figures, *self._who(one, one.speaker))
                    append(summary.add(rows, self._labels))
                    expected += 1
                file.flush()
                self.on_progress(summary.files, len(table))
            self._append_rejections(append, summary)
        return InferResult(summary, audio_secs=summary.audio_secs)

    def table(self, out: Path) -> InferResult:
        """Write a table and its parts to disk."""
        if out.parent.exists() and not out.parent.is_dir():
            raise OutputError(f"{out.parent}: is not a folder; choose another --out")
        if not out.parent.is_dir():
            raise OutputError(f"{out.parent}: no such folder; create it, or choose another --out")
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; give a file as --out")
        if out.exists():
            _check_is_table(out)
        keys = keys_of(self.listing)
        with open_table_parts(out, self.options.restart) as parts:
            self._begin(parts, keys, out)
            if out.exists() and (summary := parts.noted()["tally"]):
                return InferResult(TableSummary.from_json(summary), was_finished=True)
            complete = complete_results(
                self.listing,
                keys,
                self._embedding,
                self.engine,
                parts.results,
                self.on_progress,
            )
            summary = self._write(parts, complete.results, out)
            n_known = len(self.listing.recordings) - complete.n_new
            return InferResult(summary, False, n_known, complete.n_new, complete.audio_secs)

    @property
    def _embedding(self) -> EmbeddingOptions:
        return EmbeddingOptions.of(self.bundle)

    def _speakers(self) -> str | None:
        """Fingerprint of the speakers of all recordings; None: there are none."""
        if self.listing.recordings["speaker"].null_count == len(self.listing.recordings):
            return None
        digest = hashlib.sha256()
        for recording in recordings(self.listing.recordings):
            digest.update(f"{recording.file}\0{recording.speaker or ''}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:12]

    def _begin(self, parts: TableParts, keys: pa.Array, out: Path) -> None:
        """Start a new table, or check that the existing one has the same inputs and settings."""
        identity = {
            "model": self.bundle.short_fingerprint,
            "windows": self.options.windows,
            "format": self.format,
            "adapt": self.options.adapt,
            "labels": _shown(self.options.labels),
            "speakers": self._speakers(),
            "channel": self.options.channel,
        }
        before = parts.identity()
        if before is None:
            if out.exists() and not self.options.restart:
                raise OutputError(
                    f"{out}: exists without its folder {parts.folder.name}, so its inputs and settings are unknown; "
                    "give --restart to replace it, or choose another --out"
                )
            parts.begin(self.listing, keys, identity, [file_sha256(out)] if out.exists() else [])
            return
        noted = parts.noted()
        if out.exists() and file_sha256(out) not in noted["tables"]:
            raise OutputError(
                f"{out}: was changed after ser-batch wrote it; move it, give --restart to overwrite it, or choose "
                "another --out"
            )
        changes = parts.changes(self.listing, keys)
        differing = differences(before, identity, identity)
        if before.get("channel") != identity["channel"]:  # then all keys differ from those of the plan
            changes = ListingChanges(changed=changes.changed)
        if not self.options.update or differing:
            _check_identity(out, differing, changes, noted["tally"] is not None)
        elif changes != ListingChanges():
            parts.note(noted["tables"], None)
            parts.write_plan(self.listing, keys)

    def _write(self, parts: TableParts, results: Callable[[], Iterator[Embedded]], out: Path) -> TableSummary:
        """Write the table from the embeddings of all recordings."""
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
            left.unlink()
        summary = TableSummary()
        with open_atomically(out, "wb") as file:
            with self._rows_to(file) as append:
                for rows in self._predictions(results):
                    append(summary.add(rows, self._labels))
                self._append_rejections(append, summary)
            file.flush()
            sha256 = file_sha256(file.name)
            parts.note([*parts.noted()["tables"], sha256], None)  # until the rename, the old table is in place
        parts.note([sha256], summary.to_json())
        return summary

    def _predictions(self, results: Callable[[], Iterator[Embedded]]) -> Iterator[Iterator[Prediction]]:
        """The rows of each recording, in SOURCE order."""
        groups = self._groups(results)
        numbered = enumerate(zip(recordings(self.listing.recordings), results(), strict=True))
        for block in in_blocks(numbered):
            found = [result for _, (_, result) in block]
            scales = groups.of([row for row, _ in block])
            figures = classify(found, scales, self.classifier, self.options.windows, groups.temperature)
            for (row, (one, result)), rows in zip(block, figures, strict=True):
                who = self._who(one, groups.speakers[row])
                yield predictions_of(result, one, rows, *who, groups.is_unfamiliar)

    def _groups(self, results: Callable[[], Iterator[Embedded]]) -> Groups:
        """The groups in which the recordings are normalised."""
        table = self.listing.recordings
        given = table["speaker"].fill_null("").to_pylist()
        names = [f"{one.file}\0{one.start_secs}\0{one.end_secs}\0{one.channel}" for one in recordings(table)]

        def embeddings() -> Iterator[Float32s | None]:
            return (None if one.error else one.mean for one in results())

        return find_groups(self.options.adapt, embeddings, given, names, self.classifier.arrays)

    def _who(self, one: Recording, speaker: str | None) -> tuple[int | None, str]:
        """The channel number and the speaker that the rows of a recording show."""
        channel = one.channel if self._form.by_channel and isinstance(one.channel, int) else None
        return channel, speaker or ""

    def _append_rejections(self, append: Append, summary: TableSummary) -> None:
        for refused in self.listing.rejections:
            row = Prediction(refused.file, error=refused.reason, part=refused.part)
            append(summary.add([row], self._labels))

    def _rows_to(self, file: IO[bytes]) -> AbstractContextManager[Append]:
        return FORMATS[self.format](file, self._form, self.bundle.short_fingerprint)

    @property
    def _labels(self) -> tuple[str, ...]:
        return tuple(self.options.labels or self.bundle.labels)

    @property
    def _form(self) -> TableForm:
        return TableForm(self._labels, self.options.channel == "each")


def _shown(labels: Labels | None) -> list[str] | None:
    """The labels as text, for differences: ``positive = happiness + surprise``."""
    if labels is None:
        return None
    return [name if summed == (name,) else f"{name} = {' + '.join(summed)}" for name, summed in labels.items()]


def _check_is_table(out: Path) -> None:
    try:
        read_kind(out)
    except OutputError as error:
        raise OutputError(f"{error}; nothing was changed: move it, or choose another --out") from error


def _check_identity(out: Path, changed: list[str], changes: ListingChanges, was_finished: bool) -> None:
    """Raise an OutputError that lists the differences, if there are any."""
    cannot_update = changed or changes.relocated
    advice = "" if cannot_update else "--update to keep the predictions of unchanged files, "
    if changes.relocated:
        changed.append("the folder of the files (the names are the same)")
    elif changes.added or changes.removed:
        changed.append(f"the files ({changes.added} added, {changes.removed} removed)")
    elif changes.reordered:
        changed.append("the order of the files")
    if changes.changed and was_finished:
        changed.append(f"the audio ({pluralize(changes.changed, 'file')} changed since the last run)")
    if changed:
        raise OutputError(
            f"{out}: was made from other inputs or settings; differences: {'; '.join(changed)}. "
            f"Give {advice}--restart to make it again, or choose another --out"
        )
