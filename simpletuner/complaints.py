"""What pydantic found wrong with a config, in the words of the documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from simpletuner.errors import Problem
from simpletuner.schema import did_you_mean, shown


def problems(
    error: ValidationError, known: Iterable[str], name: Callable[[tuple[int | str, ...]], str], *, page: str
) -> list[Problem]:
    """Say what pydantic found in words that name the option and the remedy.

    Args:
        error: What validation raised.
        known: Every option name, for the nearest-name hint.
        name: Turns the place inside the nested model into the words the user wrote.
        page: The page of the documentation that lists the options.
    """
    options = list(known)
    return [Problem(name(_options_of(found)), _explain(found, options, page)) for found in error.errors()]


def _options_of(found: ErrorDetails) -> tuple[int | str, ...]:
    return (*found["loc"], found["ctx"]["options"]) if found["type"] == "conflict" else tuple(found["loc"])


def _explain(found: ErrorDetails, options: list[str], page: str) -> str:
    if found["type"] == "extra_forbidden":
        return f"there is no option of this name; {did_you_mean(str(found['loc'][-1]), options)}see {page}"
    if found["type"] == "missing":
        return "is required"
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] in {"unknown_choice", "value_error", "conflict"}:
        return message
    if found["type"] in _EXPECTED:
        return f"{_EXPECTED[found['type']].format(**found.get('ctx', {}))}, got {shown(found['input'])}"
    return f"{message[0].lower()}{message[1:]}, got {shown(found['input'])}"


_EXPECTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("string_type", "path_type"), "must be text"),
    **dict.fromkeys(("model_type", "mapping_type", "dict_type"), "must be an object"),
    "tuple_type": "must be a list",
    "greater_than": "must be above {gt:.15g}",
    "greater_than_equal": "must be at least {ge:.15g}",
    "less_than": "must be below {lt:.15g}",
    "less_than_equal": "must be at most {le:.15g}",
    "too_short": "must have at least {min_length} in it",
    "string_too_short": "must not be empty",
}
"""What pydantic's errors mean, in the words of the documentation."""
