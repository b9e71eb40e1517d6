"""Paths: only local files are supported."""

import re

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def url_problem(path: str) -> str | None:
    """The error for a path that is a URL (it would be read as a local folder ``gs:``); None for other paths."""
    scheme = _URL.match(path)
    if scheme is None:
        return None
    return f"is a URL ({scheme[1]}://), and only local files are supported; give a local path"
