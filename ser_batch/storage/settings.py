"""Base class of settings: frozen pydantic models with one-line errors."""

import difflib
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ser_batch.errors import SerBatchError

_SHOWN_CHARACTERS = 70


class Settings(BaseModel):
    """Immutable settings; unknown names and values of another type are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, content: object, where: str, error: type[SerBatchError], advice: str = "") -> Self:
        """Parse and check settings.

        Args:
            content: JSON as ``bytes``, or a dictionary.
            where: the file, for the message.
            error: exception type to raise.
            advice: end of the message: what to do.

        Raises:
            SerBatchError: of the type ``error``: a value is missing, unknown or wrong.
        """
        try:
            return cls.model_validate_json(content) if isinstance(content, bytes) else cls.model_validate(content)
        except ValidationError as problem:
            raise error(f"{where}: {_in_one_line(problem, cls)}{advice}") from None

    def to_json(self) -> dict[str, Any]:
        """All values as a JSON object."""
        return self.model_dump()

    def replace(self, **changes: Any) -> Self:
        """A copy with other values; they are validated."""
        return type(self).model_validate(dict(self) | changes)


def _in_one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem: field, received value, expected value."""
    problem = error.errors(include_url=False)[0]
    *parents, name = problem["loc"] or ("",)
    place = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if problem["type"] == "missing":
        return f"{place}: is missing"
    if problem["type"] == "extra_forbidden":
        known = _field_names(model, parents)
        similar = difflib.get_close_matches(str(name), known, 1)
        advice = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(known)}"
        return f"{place}: no such value; {advice}"
    if problem["type"] == "model_type":
        message = "should be a table of values"
    if problem["type"] == "json_invalid" or not place:
        return message
    received = repr(problem["input"])
    return f"{place} = {received[:_SHOWN_CHARACTERS]}{'…' * (len(received) > _SHOWN_CHARACTERS)}: {message}"


def _field_names(model: type[BaseModel], path: list[int | str]) -> list[str]:
    for name in path:
        kind = model.model_fields[str(name)].annotation
        model = next(one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel))
    return list(model.model_fields)
