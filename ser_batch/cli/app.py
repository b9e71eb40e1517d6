"""The Typer app: commands, exit codes, and errors as one line."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ser_batch import __version__
from ser_batch.cli import evaluation, inference, records, reports, training
from ser_batch.cli.config import configured, effective
from ser_batch.cli.console import _print, _say
from ser_batch.errors import SerBatchError, UsageError
from ser_batch.storage.filesystems import STORES, WEB, url_problem
from ser_batch.storage.writing import os_error_line

app = typer.Typer(
    name="ser-batch",
    help="Batch speech emotion recognition: audio folders to TFRecords, training, predictions to CSV.",
    epilog="Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 finished but some inputs failed, 130/143 stopped.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ser-batch {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options of commands, a table for each; the command line wins."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the options of the command as TOML, and do nothing else.")
    ] = False,
) -> None:
    pass  # `configured` has taken config and print_config from the command line


app.command("build-records")(records.build_records)
app.command()(records.verify)
app.command()(training.train)
app.command()(evaluation.evaluate)
app.command("cross-validate")(evaluation.cross_validate)
app.command()(evaluation.compare)
app.command()(inference.infer)
app.command()(inference.tracks)
app.command()(reports.info)
app.command()(reports.report)
app.command()(reports.export)


# Arguments (the empty name) and options that may be in an object store.
_REMOTE = ("", "--source", "--out", "-o", "--model", "--init")
# Commands whose arguments are recordings, which may be on a web server.
_OF_RECORDINGS = ("build-records", "infer")


def _refuse_urls(arguments: list[str], command: Any) -> None:
    """Raise a UsageError for a URL that would be read as a local path."""
    options = [one for one in (command.params if command else ()) if one.param_type_name == "option"]
    valued = {name for one in options if not one.is_flag for name in one.opts}
    for number, argument in enumerate(arguments):
        option, _, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if re.match("-[A-Za-z]", value):  # -oVALUE
            option, value = value[:2], value[2:]
        if not option and number and arguments[number - 1] in valued:
            option = arguments[number - 1]
        schemes: tuple[str, ...] = STORES if option in _REMOTE and not value.startswith("@") else ()
        if schemes and (option == "--source" or (not option and arguments[0] in _OF_RECORDINGS)):
            schemes += WEB
        if problem := url_problem(value.removeprefix("@"), schemes):
            raise UsageError(f"{f'{option} {value}'.strip()}: {problem}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        group: Any = typer.main.get_command(app)
        arguments, is_printed = configured(sys.argv[1:] if arguments is None else arguments, group.commands)
        _refuse_urls(arguments, group.commands.get(arguments[0]) if arguments else None)
        if is_printed:
            _print([effective(group.commands[arguments[0]], arguments[0], arguments[1:])])
        else:
            app(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except SerBatchError as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:  # outside of an open output: too many open files, an unreadable shard
        _say(f"error: {os_error_line(error, 'ser-batch')}")
        return 1
    return 0
