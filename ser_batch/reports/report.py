"""Report pages: from an output of a command to one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ser_batch.errors import UsageError
from ser_batch.records.folder import open_records
from ser_batch.reports.bundle_report import bundle_page
from ser_batch.reports.clips import ClipMaker, clips_of_audio, clips_of_records
from ser_batch.reports.comparison_report import comparison_page
from ser_batch.reports.kinds import OutputKind, output_kind
from ser_batch.reports.page import Page
from ser_batch.reports.prediction_report import prediction_page
from ser_batch.reports.records_report import records_page
from ser_batch.reports.score_report import cross_validation_page, evaluation_page
from ser_batch.storage.writing import open_atomically, os_errors_named

SUFFIXES = (".html", ".htm")


def write_report(
    path: Path,
    out: Path,
    other: Path | None = None,
    truth: Path | None = None,
    audio: Path | None = None,
    records: Path | None = None,
    figures: Path | None = None,
) -> None:
    """Write the report page of a record folder, bundle, evaluation, cross-validation, comparison or prediction table.

    Args:
        path: of the output of a command.
        other: a second cross-validation, which is compared with the first.
        out: the HTML file; replaced if it exists.
        truth: for a prediction table, a CSV with the columns ``file`` and ``label``, to score it.
        audio: for scored predictions, the folder of the recordings: the page gets clips of the mistakes.
        records: for scored predictions, their record folder: the page gets log-mel spectrograms of the mistakes.
        figures: a folder that gets every picture as a PNG and an SVG file; None: none is written.

    Raises:
        UsageError: ``out`` does not end with .html, or an option is given for another kind of output.
        SourceError: the path is missing, unfinished, damaged or not an output of ser-batch.
        OutputError: a file cannot be written.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: a report is an HTML file; end the name with .html")
    kind = output_kind(path)
    if truth is not None and kind != "table":
        raise UsageError(f"--truth {truth}: is for prediction tables; {path} already has true labels")
    is_scored = other is None and (kind in ("bundle", "evaluation", "cross-validation") or truth is not None)
    make_clips = _clip_maker(audio, records, is_scored)
    pages: dict[OutputKind, Callable[[Path], Page]] = {
        "records": records_page,
        "bundle": partial(bundle_page, make_clips=make_clips),
        "evaluation": partial(evaluation_page, make_clips=make_clips),
        "cross-validation": partial(cross_validation_page, make_clips=make_clips),
        "table": partial(prediction_page, truth=truth, make_clips=make_clips),
    }
    page = pages[kind](path) if other is None else comparison_page(path, other)
    html = page.to_html()
    with os_errors_named(out):
        with open_atomically(out) as file:
            file.write(html)
        if figures is not None:
            page.write_pictures(figures)


def _clip_maker(audio: Path | None, records: Path | None, is_scored: bool) -> ClipMaker | None:
    for option, value in (("--audio", audio), ("--records", records)):
        if value is not None and not is_scored:
            raise UsageError(f"{option} {value}: is for a bundle, an evaluation, a cross-validation, or with --truth")
    if audio is not None and records is not None:
        raise UsageError("--audio cannot be combined with --records; both are for clips of the mistakes")
    if audio is not None:
        if not audio.is_dir():
            raise UsageError(f"--audio {audio}: no such folder; give the folder of the recordings")
        return clips_of_audio(audio)
    return clips_of_records(open_records(records)) if records is not None else None
