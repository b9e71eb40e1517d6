"""Write docs/troubleshooting.md from the error tree and from the messages in the code.

python tools/make_troubleshooting.py
"""

import ast
import inspect
from pathlib import Path

from ser_batch import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"

_BEGIN = """# Troubleshooting

Every error is one line: what is wrong and where, then what to do. Here are all of them by kind, in alphabetical order;
`…` stands for a name, a number or another message. In Python, they are the classes of `ser_batch.errors`, all of which
are a `SerBatchError`. Any other exception is a bug.
This page is written by `python tools/make_troubleshooting.py`.

An unusable recording does not stop a batch: its row has the message (see `AudioError`), and the exit code is 3.
"""


# What to do where the message has no advice of its own.
_ADVICE = {
    "UsageError": "correct the option; `ser-batch COMMAND --help` lists all",
    "SourceError": "give another path",
    "LabelError": "correct the labels, or give --labels with another way",
    "AudioError": "play the file; replace it, or leave it out: the batch continues without it",
    "OutputError": "fix the cause, then run the same command again",
    "RecordsError": "run ser-batch verify; build the folder again with --restart",
    "TrainingError": "correct the labels or speakers of the records, and build them again",
    "BundleError": "give the folder that train wrote",
}


def troubleshooting_page() -> str:
    """The page as Markdown."""
    found = messages()
    page = _BEGIN
    for name, one in vars(errors).items():
        if inspect.isclass(one) and one is not errors.SerBatchError:
            about = " ".join(inspect.getdoc(one).split("\n\n")[0].split()).replace("``", "`")  # type: ignore[union-attr]
            page += f"\n## {name}\n\n{about}\n\n| what is wrong | what to do |\n| --- | --- |\n"
            rows = sorted(found.get(name, set()), key=_order)
            page += "".join(f"| {wrong} | {advice or _ADVICE[name]} |\n" for wrong, advice in rows)
    return page


def _order(row: tuple[str, str]) -> tuple[str, tuple[str, str]]:
    return row[0].lstrip("…:()' -`").lower(), row


def messages() -> dict[str, set[tuple[str, str]]]:
    """For each class of errors, what is wrong and what to do, of each message in the code."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted((ROOT / "ser_batch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in vars(errors):
                for text in _texts(node.args[-1]) if node.args else []:
                    wrong, _, advice = " ".join(text.split()).partition("; ")
                    if wrong.strip("… :"):
                        found.setdefault(node.func.id, set()).add((_cell(wrong), _cell(advice)))
    return found


def _texts(node: ast.expr) -> list[str]:
    """The texts that an expression can be, with ``…`` for values; empty if it is not a text."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.BinOp):
        return [before + after for before in _texts(node.left) for after in _texts(node.right)]
    return []


def _cell(text: str) -> str:
    while "……" in text or "… …" in text:
        text = text.replace("……", "…").replace("… …", "…")
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(troubleshooting_page(), encoding="utf-8")
