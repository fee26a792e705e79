"""Settings of an optimizer as people write them: an object, JSON, or ``name=value`` with commas."""

from __future__ import annotations

import ast
import json
import re
from typing import Any


def read_settings(value: Any) -> Any:
    """An object from any of these forms; betas=0.9,0.99 is one setting with two numbers."""
    if isinstance(value, list):
        return read_settings(",".join(str(one) for one in value))
    if not isinstance(value, str):
        return value
    if value.strip().startswith("{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from error
    return dict(_pair(part) for part in re.split(_BETWEEN, value) if part.strip(", \t\n"))


_BETWEEN = re.compile(r"[,\s]+(?=[A-Za-z_]\w*\s*=)")


def _pair(text: str) -> tuple[str, Any]:
    name, assigned, value = (part.strip(", \t\n") for part in text.partition("="))
    if not assigned or not name.isidentifier():
        raise ValueError(f"'{text.strip()}' is not of the form name=value")
    return name, _value(value, name)


def _value(text: str, name: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(re.sub(r"\b(true|false|none|null)\b", _as_python, text, flags=re.IGNORECASE))
    except (ValueError, SyntaxError) as error:
        if re.fullmatch(r"[\w.+-]+", text):
            return text
        raise ValueError(f"'{name}={text}' is not of the form name=value, with commas between settings") from error
    return list(value) if isinstance(value, tuple) else value


def _as_python(word: re.Match[str]) -> str:
    return repr(_WORDS[word[0].lower()])


_WORDS = {"true": True, "false": False, "none": None, "null": None}
