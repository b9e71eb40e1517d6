"""Text formatting helpers."""

import re


def pluralize(number: int, noun: str) -> str:
    """A number of things that take an s if they are several: ``1 row``, ``3,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def format_uar(uar: float, n_scored: int, n_labels: int) -> str:
    """An unweighted average recall: ``UAR 0.512``, or ``UAR 0.512 over 5 of 7 labels``."""
    return f"UAR {uar:.3f}" + (f" over {n_scored} of {n_labels} labels" if n_scored < n_labels else "")


def part_named(file: str, start: str, end: str) -> str:
    """A recording with the part of its file, if it is not the whole: ``a.wav``, ``a.wav, 1.5 s to 3 s``.

    Args:
        file: its key.
        start, end: seconds as text, as asked for; empty: not given.
    """
    start, end = start.removesuffix(".0"), end.removesuffix(".0")
    if start in ("", "0") and not end:
        return file
    return f"{file}, {start or 0} s to {f'{end} s' if end else 'the end'}"


_CLOCK = re.compile(
    r"(?:(?P<days>\d{1,9}) days? )?(?P<hours>\d{1,9}):(?P<minutes>[0-5]?\d):(?P<secs>[0-5]?\d(?:\.\d+)?)"
)


def parse_secs(text: str) -> float:
    """Seconds from ``12.5`` or from ``HH:MM:SS.ffffff`` (also with ``N days`` before, as pandas writes it).

    Raises:
        ValueError: neither, or negative.
    """
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        whole = int(clock["days"] or 0) * 86_400 + int(clock["hours"]) * 3600 + int(clock["minutes"]) * 60
        return whole + float(clock["secs"])
    if not re.fullmatch(r"\d{1,12}(\.\d*)?|\.\d+", text):
        raise ValueError(f"not a time: {text!r}; write seconds (12.5) or HH:MM:SS")
    return float(text)


def format_timestamp(secs: float) -> str:
    """Seconds as ``HH:MM:SS.ffffff``, which `pandas.to_timedelta` and audformat read."""
    whole, micros = divmod(round(round(secs, 6) * 1_000_000), 1_000_000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{micros:06d}"
