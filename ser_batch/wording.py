"""How messages put things."""


def counted(number: int, noun: str) -> str:
    """A number of things that take an s if they are several: ``1 row``, ``3,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


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
