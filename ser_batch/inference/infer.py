"""From a listing to a finished prediction table: begun, continued or updated."""

import dataclasses
import glob
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa

from ser_batch.audio.channels import Channels, with_channels
from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.table import Listing, Recording, recordings
from ser_batch.errors import OutputError, UsageError
from ser_batch.formatting import pluralize
from ser_batch.inference.predictions import Prediction, PredictionOptions, Result, read_part
from ser_batch.inference.results import (
    ListingChanges,
    TableParts,
    complete_results,
    keys_of,
    open_table_parts,
    predict_blocks,
)
from ser_batch.inference.speakers import collect_speaker_scales
from ser_batch.inference.summaries import TableSummary
from ser_batch.inference.table import FORMATS, Append, TableForm, read_kind, table_format
from ser_batch.models.bundles import Bundle
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.process import temporary_files_removed
from ser_batch.storage.fingerprints import file_sha256
from ser_batch.storage.outputs import differences
from ser_batch.storage.writing import open_atomically, standard_output


@dataclass(frozen=True)
class InferOptions:
    """What is asked of a table.

    Attributes:
        windows: one row per window; else one per recording.
        format: of the table: csv, parquet or jsonl; None: by its suffix.
        restart: make the table anew, whatever is there.
        update: take over what is known of files that did not change.
        channel: the mean of all channels, one of them, or ``each`` with its own rows; None: as the model was trained.
    """

    windows: bool = False
    format: str | None = None
    restart: bool = False
    update: bool = False
    channel: Channels | None = None


@dataclass(frozen=True)
class InferResult:
    """What became of an inference.

    Attributes:
        summary: what the table holds.
        was_finished: the table had been finished before.
        n_known, n_new: recordings that an earlier run had done, and that this one did.
        audio_secs: of what this run predicted.
        model: the short fingerprint of the bundle.
        bases: the folder that relative paths were taken from, by the name of the CSV or list.
    """

    summary: TableSummary
    was_finished: bool = False
    n_known: int = 0
    n_new: int = 0
    audio_secs: float = 0.0
    model: str = ""
    bases: dict[str, str] = field(default_factory=dict)


def infer(
    listing: Listing,
    bundle: Bundle,
    out: str,
    engine: Engine,
    options: InferOptions = InferOptions(),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> InferResult:
    """Predict everything in a listing into a table.

    Args:
        listing: from `ser_batch.corpus.sources.list_source`; what could not be listed gets a row too, at the end.
        bundle: the model.
        out: path of the table; ``-`` for standard output, where rows come as soon as those before them are done.
        engine: where recordings are decoded, transformed and predicted.
        options: what is asked for.
        on_progress: called with (recordings done, recordings in all).

    Raises:
        OutputError: the table cannot be written, is in use, or is there and was made from something else.
        BundleError: the bundle is damaged.
        UsageError: the options contradict each other, or no format can be told.
    """
    kind = table_format(out, options.format)
    if options.update and (options.restart or out == "-"):
        raise UsageError(f"--update cannot be combined with {'--restart' if options.restart else '--out -'}")
    if options.update and bundle.content.speaker_reference is not None:
        raise UsageError(
            "--update: this model normalises by speaker, so a new file changes the predictions of all of its "
            "speaker's; give --restart"
        )
    # A list's name, which reasons may hold, need not be text.
    rejections = [
        dataclasses.replace(one, reason=one.reason.encode("utf-8", "backslashreplace").decode())
        for one in listing.rejections
    ]
    if options.channel is not None:
        listing = dataclasses.replace(listing, recordings=with_channels(listing.recordings, options.channel, engine))
    run = _InferenceRun(dataclasses.replace(listing, rejections=rejections), bundle, kind, engine, options, on_progress)
    return run.stream() if out == "-" else run.table(Path(out))


@dataclass(frozen=True)
class _InferenceRun:
    """One call of `infer`."""

    listing: Listing
    bundle: Bundle
    format: str
    engine: Engine
    options: InferOptions
    on_progress: Callable[[int, int], None]

    def stream(self) -> InferResult:
        """Rows to standard output, as soon as those before them are done."""
        summary = TableSummary()
        table = self.listing.recordings
        with temporary_files_removed(), standard_output() as file, self._rows_to(file) as append:
            folder = Path(tempfile.mkdtemp())
            keys = keys_of(self.listing)
            scales = self._speaker_scales(keys, folder / "functionals")
            expected, in_order = 0, recordings(table)
            ready: dict[bytes, Result] = {}
            numbered = ((key.as_py(), one) for key, one in zip(keys, recordings(table), strict=False))
            for block, _ in predict_blocks(numbered, len(table), self._options(), self.engine, folder, scales):
                ready.update(zip(block.keys, read_part(Path(block.path)), strict=True))
                Path(block.path).unlink()
                while expected < len(table) and (result := ready.pop(keys[expected].as_py(), None)):
                    append(summary.add(self._rows(next(in_order), result), self.bundle.labels))
                    expected += 1
                file.flush()
                self.on_progress(summary.files, len(table))
            self._append_rejections(append, summary)
        return InferResult(summary, audio_secs=summary.audio_secs)

    def table(self, out: Path) -> InferResult:
        """A table on disk, with its parts."""
        if out.parent.exists() and not out.parent.is_dir():
            raise OutputError(f"{out.parent}: is not a folder; name another --out")
        if not out.parent.is_dir():
            raise OutputError(f"{out.parent}: no such folder; make it first, or name another --out")
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; name a file with --out")
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
                self._options(),
                self.engine,
                parts.results,
                partial(self._speaker_scales, keys, parts.folder / "functionals"),
                self.on_progress,
            )
            summary = self._write(parts, complete.results, out)
            n_known = len(self.listing.recordings) - complete.n_new
            return InferResult(summary, False, n_known, complete.n_new, complete.audio_secs)

    def _options(self) -> PredictionOptions:
        return PredictionOptions.predictions(self.bundle, self.options.windows)

    def _speaker_scales(self, keys: pa.Array, folder: Path) -> Mapping[str, Float32s]:
        if self.bundle.content.speaker_reference is None:
            return {}
        return collect_speaker_scales(self.listing, keys, self.bundle, self.engine, folder, self.on_progress)

    def _speakers(self) -> str | None:
        """Fingerprint of who speaks where, if that changes predictions."""
        if self.bundle.content.speaker_reference is None:
            return None
        digest = hashlib.sha256()
        for recording in recordings(self.listing.recordings):
            digest.update(f"{recording.file}\0{recording.speaker or ''}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:12]

    def _begin(self, parts: TableParts, keys: pa.Array, out: Path) -> None:
        """Begin a table, or see that an earlier run began the one that is wanted."""
        identity = {
            "model": self.bundle.short_fingerprint,
            "windows": self.options.windows,
            "format": self.format,
            "speakers": self._speakers(),
            "channel": self.options.channel,
        }
        before = parts.identity()
        if before is None:
            if out.exists() and not self.options.restart:
                raise OutputError(
                    f"{out}: exists without its folder {parts.folder.name}, so what it was made from is not known; "
                    "give --restart to make it anew, or name another --out"
                )
            parts.begin(self.listing, keys, identity, [file_sha256(out)] if out.exists() else [])
            return
        noted = parts.noted()
        if out.exists() and file_sha256(out) not in noted["tables"]:
            raise OutputError(
                f"{out}: was changed since ser-batch wrote it; move it away, give --restart to write over it, or name "
                "another --out"
            )
        changes = parts.changes(self.listing, keys)
        if self.bundle.content.speaker_reference is not None and changes.changed:
            raise OutputError(
                f"{out}: {pluralize(changes.changed, 'file')} changed since the last run, and the model "
                "normalises by speaker: all of a speaker's predictions would change; "
                "give --restart to make the table anew"
            )
        differing = differences(before, identity, identity)
        if before.get("channel") != identity["channel"]:  # then all keys differ from the plan's
            changes = ListingChanges(changed=changes.changed)
        if not self.options.update or differing:
            _check_identity(out, differing, changes, noted["tally"] is not None)
        elif changes != ListingChanges():
            parts.note(noted["tables"], None)
            parts.write_plan(self.listing, keys)

    def _write(self, parts: TableParts, results: Iterator[Result], out: Path) -> TableSummary:
        """Make the table from the results."""
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
            left.unlink()
        summary = TableSummary()
        with open_atomically(out, "wb") as file:
            with self._rows_to(file) as append:
                for one, result in zip(recordings(self.listing.recordings), results, strict=True):
                    append(summary.add(self._rows(one, result), self.bundle.labels))
                self._append_rejections(append, summary)
            file.flush()
            sha256 = file_sha256(file.name)
            parts.note([*parts.noted()["tables"], sha256], None)  # until it has its name, the old one is there
        parts.note([sha256], summary.to_json())
        return summary

    def _rows(self, one: Recording, result: Result) -> Iterator[Prediction]:
        channel = one.channel if self._form.by_channel and isinstance(one.channel, int) else None
        return result.predictions(one.file, (one.start_secs, one.end_secs), channel)

    def _append_rejections(self, append: Append, summary: TableSummary) -> None:
        for refused in self.listing.rejections:
            row = Prediction(refused.file, error=refused.reason, part=refused.part)
            append(summary.add([row], self.bundle.labels))

    def _rows_to(self, file: IO[bytes]) -> AbstractContextManager[Append]:
        return FORMATS[self.format](file, self._form, self.bundle.short_fingerprint)

    @property
    def _form(self) -> TableForm:
        return TableForm(self.bundle.labels, self.options.channel == "each")


def _check_is_table(out: Path) -> None:
    try:
        read_kind(out)
    except OutputError as error:
        raise OutputError(f"{error}; nothing was changed: move it, or name another --out") from error


def _check_identity(out: Path, changed: list[str], changes: ListingChanges, was_finished: bool) -> None:
    """Raise an OutputError that says what differs, if anything does."""
    knows_none = changed or changes.elsewhere
    advice = "" if knows_none else "--update to keep what is known of the files that did not change, "
    if changes.elsewhere:
        changed.append("where the files are (the names are the same)")
    elif changes.came or changes.went:
        changed.append(f"the files ({changes.came} came, {changes.went} went)")
    elif changes.moved:
        changed.append("the files' order")
    if changes.changed and was_finished:
        changed.append(f"the audio ({pluralize(changes.changed, 'file')} changed since the last run)")
    if changed:
        raise OutputError(
            f"{out}: was made from something else; what differs: {'; '.join(changed)}. "
            f"Give {advice}--restart to make it anew, or name another --out"
        )
