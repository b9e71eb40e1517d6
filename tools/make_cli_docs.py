"""Write docs/cli.md from the Typer app.

python tools/make_cli_docs.py
"""

from pathlib import Path
from typing import Any

import typer

from ser_batch.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

_BEGIN = """# Command line

Every command has `--help`. Exit codes: 0 all done; 1 failed, or no input could be used; 2 wrong usage; 3 finished, but
some inputs failed; 130 interrupted; 143 terminated. This page is written by `python tools/make_cli_docs.py`.

`ser-batch --config FILE.toml COMMAND …` takes options from a file: a table for each command, with the long names of its
options. The command line wins. `ser-batch --print-config COMMAND …` prints the options of a command as such a table.

    [infer]
    adapt = "none"
    workers = 4

`ser-batch --install-completion` installs completion for the shell.
"""


def cli_page() -> str:
    """The page as Markdown."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return _BEGIN + "".join(_section(name, command) for name, command in commands.items())


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"ser-batch {name}")
    text = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    text = text.replace("Example: ", "Example:\n\n    ")
    lines = [f"\n## {name}\n", text, "\n| argument | meaning | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        shown, meaning = parameter.get_help_record(context) or (parameter.human_readable_name, parameter.help)
        default = "" if parameter.param_type_name == "argument" or parameter.required else _default(parameter)
        shown, meaning = shown.split(" <")[0], meaning.split("  [")[0]
        required = " (required)" if parameter.required else ""
        lines.append(f"| `{_plain(shown)}` | {_plain(meaning)}{required} | {_plain(default)} |")
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    if isinstance(parameter.show_default, str):
        return str(parameter.show_default)
    return "" if parameter.default is None or parameter.is_flag else f"`{parameter.default}`"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
