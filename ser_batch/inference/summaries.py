"""What a finished prediction table holds, counted row by row, and told in a few lines."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ser_batch.formatting import part_named
from ser_batch.inference.predictions import Prediction

LISTED_ERRORS = 20

# A spreadsheet that opens a CSV takes what begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


@dataclass
class TableSummary:
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
            count, example = self.reasons.get(error_pattern(first.error), (0, first.error))
            self.reasons[error_pattern(first.error)] = (count + 1, example if example == first.error else "")
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
    def from_json(cls, content: dict[str, Any]) -> "TableSummary":
        """What `to_json` gave."""
        summary = cls(**content)
        summary.emotions, summary.warnings = Counter(summary.emotions), Counter(summary.warnings)
        summary.reasons = {form: (count, example) for form, (count, example) in summary.reasons.items()}
        summary.first_errors = [(file, error) for file, error in summary.first_errors]
        return summary


def error_pattern(reason: str) -> str:
    """A reason without what differs from file to file: numbers, and what stands in quotes."""
    return re.sub(r"\d[\d.]*", "N", re.sub(r"'.*'", "'…'", reason))
