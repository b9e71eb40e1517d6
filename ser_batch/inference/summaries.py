"""Counts of a prediction table, updated row by row."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ser_batch.formatting import part_named
from ser_batch.inference.predictions import Prediction

LISTED_ERRORS = 20

# A spreadsheet reads a CSV cell with one of these first characters as a formula.
_FORMULA = ("=", "+", "-", "@")


@dataclass
class TableSummary:
    """Counts of a prediction table.

    Attributes:
        files: number of recordings and rejected inputs.
        rows: number of rows.
        audio_secs: duration of the recordings with a prediction.
        emotions: number of rows for each emotion.
        reasons: for each error pattern, the number of files and the first such error.
        warnings: number of files for each warning code.
        formulas: number of files whose name a spreadsheet would read as a formula.
        first_errors: (file and part, error) of the first `LISTED_ERRORS` files without a prediction.
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
        """Number of files without a prediction."""
        return sum(count for count, _ in self.reasons.values())

    def add(self, predictions: Iterable[Prediction], labels: tuple[str, ...]) -> list[Prediction]:
        """Count the rows of one file, and return them."""
        rows = list(predictions)
        first = rows[0]
        self.files += 1
        self.rows += len(rows)
        self.formulas += first.file.startswith(_FORMULA)
        if first.error:
            count, example = self.reasons.get(error_pattern(first.error), (0, first.error))
            self.reasons[error_pattern(first.error)] = (count + 1, example if example == first.error else "")
            if len(self.first_errors) < LISTED_ERRORS:
                start, end = ("" if secs is None else repr(secs) for secs in first.part)
                channel = "" if first.channel is None else f", channel {first.channel}"
                self.first_errors.append((part_named(first.file, start, end) + channel, first.error))
            return rows
        self.audio_secs += first.duration_secs
        self.warnings.update({code for row in rows for code in row.warnings})
        for row in rows:
            self.emotions[labels[row.best]] += 1
        return rows

    def to_json(self) -> dict[str, Any]:
        """All counts as a JSON object, for `from_json`."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TableSummary":
        """The counts from `to_json`."""
        summary = cls(**content)
        summary.emotions, summary.warnings = Counter(summary.emotions), Counter(summary.warnings)
        summary.reasons = {form: (count, example) for form, (count, example) in summary.reasons.items()}
        summary.first_errors = [(file, error) for file, error in summary.first_errors]
        return summary


def error_pattern(reason: str) -> str:
    """A reason with placeholders for numbers and quoted text, so that equal kinds of errors are counted together."""
    return re.sub(r"\d[\d.]*", "N", re.sub(r"'.*'", "'…'", reason))
