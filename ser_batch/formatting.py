"""Text formatting helpers."""

import re


def pluralize(number: int, noun: str) -> str:
    """A number with a noun, in the plural if needed: ``1 row``, ``3,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_uar(uar: float, n_scored: int, n_labels: int) -> str:
    """An unweighted average recall: ``UAR 0.512``, or ``UAR 0.512 over 5 of 7 labels``."""
    return f"UAR {uar:.3f}" + (f" over {n_scored} of {n_labels} labels" if n_scored < n_labels else "")


def part_named(file: str, start: str, end: str) -> str:
    """The name of a recording, with its part of the file if it has one: ``a.wav``, ``a.wav, 1.5 s to 3 s``.

    Args:
        file: key of the recording.
        start, end: requested seconds as text; empty: not given.
    """
    start, end = start.removesuffix(".0"), end.removesuffix(".0")
    if start in ("", "0") and not end:
        return file
    return f"{file}, {start or 0} s to {f'{end} s' if end else 'the end'}"


_TIMESTAMP = re.compile(
    r"(?:(?P<days>\d{1,9}) days? )?(?P<hours>\d{1,9}):(?P<minutes>[0-5]?\d):(?P<secs>[0-5]?\d(?:\.\d+)?)"
)


def parse_secs(text: str) -> float:
    """Seconds from ``12.5`` or ``HH:MM:SS.ffffff`` (also ``N days HH:MM:SS``, as written by pandas).

    Raises:
        ValueError: the text has another format, or is negative.
    """
    text = text.strip()
    if match := _TIMESTAMP.fullmatch(text):
        whole = int(match["days"] or 0) * 86_400 + int(match["hours"]) * 3600 + int(match["minutes"]) * 60
        return whole + float(match["secs"])
    if not re.fullmatch(r"\d{1,12}(\.\d*)?|\.\d+", text):
        raise ValueError(f"not a time: {text!r}; write seconds (12.5) or HH:MM:SS")
    return float(text)


def format_timestamp(secs: float) -> str:
    """Seconds as ``HH:MM:SS.ffffff``, readable by `pandas.to_timedelta` and audformat."""
    whole, micros = divmod(round(round(secs, 6) * 1_000_000), 1_000_000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{micros:06d}"
