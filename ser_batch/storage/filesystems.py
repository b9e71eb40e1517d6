"""Paths: only those of this machine."""

import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def url_problem(path: str) -> str | None:
    """What is wrong with a path that is a URL; None if it is none. As a path it would name a local folder ``gs:``."""
    scheme = _URL.match(path)
    if scheme is None:
        return None
    return f"is a URL ({scheme[1]}://), and only files on this machine can be read and written; give a plain path"
