"""How messages put things."""


def counted(number: int, noun: str) -> str:
    """A number of things that take an s if they are several: ``1 row``, ``3,000 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
