"""What a finished prediction table holds, counted row by row, and told in a few lines."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ser_batch.results.predictions import Prediction
from ser_batch.wording import counted, part_named

LISTED_ERRORS = 20
_LISTED_REASONS = 10

# A spreadsheet that opens a CSV takes what begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


@dataclass
class Tally:
    """Counts over a table.

    Attributes:
        files: recordings, and inputs that could not even be listed.
        rows: of the table.
        audio_secs: of the recordings that have a prediction.
        emotions: rows of each.
        reasons: of each general form of error, how many files it has and the first such error.
        warnings: files that each code applies to.
        formulas: files whose names a spreadsheet takes for formulas.
        first_errors: (file and part, error) of the first few files without a prediction.
    """

    files: int = 0
    rows: int = 0
    audio_secs: float = 0.0
    emotions: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    warnings: Counter[str] = field(default_factory=Counter)
    formulas: int = 0
    first_errors: list[tuple[str, str]] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Files without a prediction."""
        return sum(count for count, _ in self.reasons.values())

    def add(self, predictions: Iterable[Prediction], labels: tuple[str, ...]) -> list[Prediction]:
        """Count the rows of one file, and give them back."""
        rows = list(predictions)
        first = rows[0]
        self.files += 1
        self.rows += len(rows)
        self.formulas += first.file.startswith(_FORMULA)
        if first.error:
            count, example = self.reasons.get(general_form(first.error), (0, first.error))
            self.reasons[general_form(first.error)] = (count + 1, example if example == first.error else "")
            if len(self.first_errors) < LISTED_ERRORS:
                start, end = ("" if secs is None else repr(secs) for secs in first.part)
                channel = "" if first.channel is None else f", channel {first.channel}"
                self.first_errors.append((part_named(first.file, start, end) + channel, first.error))
            return rows
        self.audio_secs += first.duration_secs
        self.warnings.update(first.warnings)
        for row in rows:
            self.emotions[labels[row.best]] += 1
        return rows

    def to_json(self) -> dict[str, Any]:
        """As JSON, for `from_json`."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tally":
        """What `to_json` gave."""
        tally = cls(**content)
        tally.emotions, tally.warnings = Counter(tally.emotions), Counter(tally.warnings)
        tally.reasons = {form: (count, example) for form, (count, example) in tally.reasons.items()}
        tally.first_errors = [(file, error) for file, error in tally.first_errors]
        return tally


def general_form(reason: str) -> str:
    """A reason without what differs from file to file: numbers, and what stands in quotes."""
    return re.sub(r"\d[\d.]*", "N", re.sub(r"'.*'", "'…'", reason))


def table_lines(tally: Tally, out: str, audio_secs: float, secs: float) -> list[str]:
    """A tally for a terminal.

    Args:
        tally: of the whole table.
        out: where the table is.
        audio_secs: of the recordings that this run predicted.
        secs: how long it took.
    """
    lines = []
    if tally.formulas and out.endswith(".csv"):
        names = counted(tally.formulas, "name")
        lines.append(f"warning: {names} with =, +, - or @ at the start; import into a spreadsheet as text")
    rows = counted(tally.rows, "row")
    if tally.rows != tally.files:
        rows += f" of {counted(tally.files, 'recording')}"
    lines.append(f"{out}: {rows}, {tally.errors:,} of them errors, in {secs:.1f} s")
    now = "" if math.isclose(audio_secs, tally.audio_secs) else f", {_long(audio_secs)} of it now"
    speed = f"{now}, {audio_secs / secs:,.0f} x real time" if audio_secs else ""
    lines.append(f"  audio     {_long(tally.audio_secs)}{speed}")
    if tally.emotions:
        n_rows = tally.emotions.total()
        shares = [f"{emotion} {count / n_rows:.1%}" for emotion, count in _ranked(tally.emotions)]
        lines.append(f"  emotions  {', '.join(shares)}")
    if tally.warnings:
        lines.append(f"  warnings  {', '.join(f'{code} {count:,}' for code, count in _ranked(tally.warnings))}")
    counts = _ranked(Counter({example or form: count for form, (count, example) in tally.reasons.items()}))
    reasons = [f"{count:,} x {reason}" for reason, count in counts[:_LISTED_REASONS]]
    if left := counts[_LISTED_REASONS:]:
        reasons.append(f"{sum(count for _, count in left):,} for {counted(len(left), 'other reason')}")
    return lines + [f"  {'' if index else 'errors':10}{reason}" for index, reason in enumerate(reasons)]


def _long(secs: float) -> str:
    if secs < 60:
        return f"{secs:.1f} s"
    return f"{secs / 60:.1f} min" if secs < 3600 else f"{secs / 3600:,.1f} h"


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
