"""Options of commands from a TOML file: ``ser-batch --config FILE.toml COMMAND …``."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ser_batch.errors import UsageError


def configured(arguments: Sequence[str], commands: dict[str, Any]) -> tuple[list[str], bool]:
    """The arguments with the options of the file, and whether ``--print-config`` is among them.

    The options of the file come before those of the command line, which therefore win.

    Args:
        arguments: of the command line.
        commands: the Typer commands by name.

    Raises:
        UsageError: the file cannot be read, or has an unknown command, option or kind of value.
    """
    rest, path, is_printed = list(arguments), None, False
    while rest and rest[0].split("=")[0] in ("--config", "--print-config"):
        name, equals, value = rest.pop(0).partition("=")
        if name == "--print-config":
            is_printed = True
        elif equals or rest:
            path = Path(value if equals else rest.pop(0))
        else:
            raise UsageError("--config: give a TOML file")
    if is_printed and (not rest or rest[0] not in commands):
        raise UsageError(f"--print-config: give a command after it: {', '.join(commands)}")
    if path is None or not rest or rest[0] not in commands:
        return rest, is_printed
    name, *given = rest
    values = _read(path, commands).get(name, {})
    return [name, *_options(path, commands[name], name, values, given), *given], is_printed


def effective(command: Any, name: str, arguments: Sequence[str]) -> str:
    """The values of all options of a command as TOML, which `configured` reads.

    Args:
        command: the Typer command.
        name: of the command.
        arguments: after its name.

    Raises:
        UsageError: an argument is missing or wrong.
    """
    with _context(command, name, arguments) as context:
        lines = [f"[{name}]"]
        for option, parameter in _by_name(command).items():
            value = context.params[parameter.name]
            if isinstance(value, list | tuple):
                lines += [f"{option} = {json.dumps([str(one) for one in value])}"] if value else []
            elif isinstance(value, bool | int | float):
                lines.append(f"{option} = {json.dumps(value)}")
            elif value is not None:
                lines.append(f"{option} = {json.dumps(str(value))}")
    return "\n".join(lines)


def _context(command: Any, name: str, arguments: Sequence[str]) -> Any:
    try:
        return command.make_context(name, list(arguments))
    except Exception as error:
        if not hasattr(error, "format_message"):  # of Typer's exceptions for wrong usage
            raise
        raise UsageError(f"{name}: {error.format_message()}") from error


def _read(path: Path, commands: dict[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {path}: cannot be read ({error})") from error
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise UsageError(f"--config {path}: {name}: is not the table of a command ({', '.join(commands)})")
        known = _by_name(commands[name])
        for option in table:
            if option not in known:
                near = get_close_matches(option, known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
                raise UsageError(f"--config {path}: {name} has no option {option}; {advice}")
    return tables


def _options(path: Path, command: Any, name: str, values: dict[str, Any], given: Sequence[str]) -> Iterator[str]:
    known = _by_name(command)
    for option, value in values.items():
        parameter, where = known[option], f"--config {path}: {name}.{option}"
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int | float) for one in several):
            raise UsageError(f"{where}: should be text, a number, true or false")
        if isinstance(value, list) and not parameter.multiple:
            raise UsageError(f"{where}: takes one value, not a list")
        if parameter.is_flag != isinstance(value, bool):
            raise UsageError(f"{where}: should be {'true or false' if parameter.is_flag else 'text or a number'}")
        if parameter.is_flag:
            yield from [f"--{option}"] if value else []
        elif not (parameter.multiple and _is_given(parameter, given)):
            yield from (f"--{option}={one}" for one in several)


def _is_given(parameter: Any, given: Sequence[str]) -> bool:
    return any(argument.split("=")[0] in parameter.opts for argument in given)


def _by_name(command: Any) -> dict[str, Any]:
    """The options of a command, by their long names without the hyphens before."""
    options = (one for one in command.params if one.param_type_name == "option" and "--help" not in one.opts)
    return {max(one.opts, key=len).removeprefix("--"): one for one in options}
