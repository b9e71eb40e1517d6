"""From a listing to a finished prediction table: begun, continued or updated."""

import dataclasses
import glob
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.channels import Channels, with_channels
from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.table import Listing
from ser_batch.errors import OutputError, UsageError
from ser_batch.formatting import pluralize
from ser_batch.inference.predictions import Prediction, PredictionOptions, predict, predict_in_order
from ser_batch.inference.results import Comparison, Journal, journal_path, open_journal
from ser_batch.inference.speakers import collect_speaker_scales
from ser_batch.inference.summaries import Tally
from ser_batch.inference.table import FORMATS, Append, TableForm, read_kind, table_format
from ser_batch.models.bundles import Bundle
from ser_batch.runtime.engine import Engine
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
        tally: what the table holds.
        was_finished: the table had been finished before.
        n_known, n_new: recordings that an earlier run had done, and that this one did.
        audio_secs: of what this run predicted.
    """

    tally: Tally
    was_finished: bool = False
    n_known: int = 0
    n_new: int = 0
    audio_secs: float = 0.0


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
    making = _InferenceRun(
        dataclasses.replace(listing, rejections=rejections), bundle, kind, engine, options, on_progress
    )
    return making.stream() if out == "-" else making.table(Path(out))


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
        """Rows to standard output."""
        tally = Tally()
        recordings = self.listing.recordings
        with standard_output() as file, self._rows_to(file) as append:
            for result in predict_in_order(recordings, self._asked(), self.engine, self._speaker_scales()):
                one = recordings[result.number]
                channel = one.channel if self._form.by_channel and isinstance(one.channel, int) else None
                rows = result.predictions(one.file, (one.start_secs, one.end_secs), channel)
                append(tally.add(rows, self.bundle.labels))
                file.flush()
                self.on_progress(tally.files, len(recordings))
            for refused in self.listing.rejections:
                row = Prediction(refused.file, error=refused.reason, part=refused.part)
                append(tally.add([row], self.bundle.labels))
        return InferResult(tally, audio_secs=tally.audio_secs)

    def table(self, out: Path) -> InferResult:
        """A table on disk, with its journal."""
        if out.parent.exists() and not out.parent.is_dir():
            raise OutputError(f"{out.parent}: is not a folder; name another --out")
        if not out.parent.is_dir():
            raise OutputError(f"{out.parent}: no such folder; make it first, or name another --out")
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; name a file with --out")
        if out.exists():
            _refuse_other_than_table(out)
        with open_journal(out, self.options.restart) as journal:
            self._plan(journal, out)
            if out.exists() and journal.fact("tally"):
                return InferResult(Tally.from_json(journal.fact("tally")), was_finished=True)
            pending = journal.pending()
            n_known = len(self.listing.recordings) - len(pending)
            audio_secs = self._predict(pending, journal) if len(pending) else 0.0
            return InferResult(self._write(journal, out), False, n_known, len(pending), audio_secs)

    def _asked(self) -> PredictionOptions:
        return PredictionOptions.predictions(self.bundle, self.options.windows)

    def _speaker_scales(self) -> dict[str, Float32s]:
        if self.bundle.content.speaker_reference is None:
            return {}
        return collect_speaker_scales(self.listing.recordings, self.bundle, self.engine, self.on_progress)

    def _speakers(self) -> str | None:
        """Fingerprint of who speaks where, if that changes predictions."""
        if self.bundle.content.speaker_reference is None:
            return None
        digest = hashlib.sha256()
        for recording in self.listing.recordings:
            digest.update(f"{recording.file}\0{recording.speaker or ''}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:12]

    def _plan(self, journal: Journal, out: Path) -> None:
        """Begin a table, or see that what the journal knows is of the one that is asked for."""
        identity = {
            "model": self.bundle.short_fingerprint,
            "windows": self.options.windows,
            "format": self.format,
            "speakers": self._speakers(),
            "channel": self.options.channel,
        }
        before = journal.fact("identity")
        if before is None:
            if out.exists() and not self.options.restart:
                raise OutputError(
                    f"{out}: exists without its journal {journal_path(out).name}, so nobody can tell what it was made "
                    "from; give --restart to make it anew, or name another --out"
                )
            journal.begin(self.listing, identity, [file_sha256(out)] if out.exists() else [])
            return
        if out.exists() and file_sha256(out) not in journal.fact("tables"):
            raise OutputError(
                f"{out}: was changed since ser-batch wrote it; move it away, give --restart to write over it, or name "
                "another --out"
            )
        comparison = journal.compare(self.listing)
        if self.bundle.content.speaker_reference is not None and comparison.changed:
            raise OutputError(
                f"{out}: {pluralize(comparison.changed, 'file')} changed since the last run, and the model "
                "normalises by speaker: all of a speaker's predictions would change; "
                "give --restart to make the table anew"
            )
        changed = differences(before, identity, identity)
        if before.get("channel") != identity["channel"]:  # then none of the plan's recordings are the listing's
            comparison = dataclasses.replace(comparison, came=0, went=0, moved=False, elsewhere=False)
        if not self.options.update or changed:
            was_finished = journal.fact("tally") is not None
            _refuse_other(out, changed, comparison, was_finished)
            journal.forget_changed()
        elif not comparison.is_same:
            journal.update()

    def _predict(self, pending: NDArray[np.int64], journal: Journal) -> float:
        """Bring recordings into the journal; how many seconds of audio they were."""
        recordings = self.listing.recordings
        done, audio_secs = len(recordings) - len(pending), 0.0
        self.on_progress(done, len(recordings))
        numbered = ((int(position), recordings[position]) for position in pending)
        for results in predict(numbered, self._asked(), self.engine, self._speaker_scales()):
            journal.record(results)
            done += len(results)
            audio_secs += sum(result.duration_secs for result in results if not result.error)
            self.on_progress(done, len(recordings))
        return audio_secs

    def _write(self, journal: Journal, out: Path) -> Tally:
        """Make the table from the journal."""
        for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
            left.unlink()
        tally = Tally()
        labels = self.bundle.labels
        with open_atomically(out, "wb") as file:
            with self._rows_to(file) as append:
                for name, part, channel, result in journal.results(3 + len(labels)):
                    append(tally.add(result.predictions(name, part, channel), labels))
            file.flush()
            sha256 = file_sha256(file.name)
            journal.note(tables=[*journal.fact("tables"), sha256])  # until it has its name, the old one is there
        journal.note(tables=[sha256], tally=tally.to_json())
        return tally

    def _rows_to(self, file: IO[bytes]) -> AbstractContextManager[Append]:
        return FORMATS[self.format](file, self._form, self.bundle.short_fingerprint)

    @property
    def _form(self) -> TableForm:
        return TableForm(self.bundle.labels, self.options.channel == "each")


def _refuse_other_than_table(out: Path) -> None:
    try:
        read_kind(out)
    except OutputError as error:
        raise OutputError(f"{error}; nothing was changed: move it, or name another --out") from error


def _refuse_other(out: Path, changed: list[str], comparison: Comparison, was_finished: bool) -> None:
    """Raise an OutputError that says what differs, if anything does."""
    knows_none = changed or comparison.elsewhere
    advice = "" if knows_none else "--update to keep what is known of the files that did not change, "
    if comparison.elsewhere:
        changed.append("where the files are (the names are the same)")
    elif comparison.came or comparison.went:
        changed.append(f"the files ({comparison.came} came, {comparison.went} went)")
    elif comparison.moved:
        changed.append("the files' order")
    if comparison.changed and was_finished:
        changed.append(f"the audio ({pluralize(comparison.changed, 'file')} changed since the last run)")
    if changed:
        raise OutputError(
            f"{out}: was made from something else; what differs: {'; '.join(changed)}. "
            f"Give {advice}--restart to make it anew, or name another --out"
        )
