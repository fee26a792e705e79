"""A config as text: complete and without secrets, and for others without folders of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simpletuner.data.web.connections import shown


def text(values: Mapping[str, Any]) -> str:
    """The values as JSON, with users, passwords and queries of all web addresses taken out."""
    return _json(_without_secrets(values))


def public(text: str) -> str:
    """The same config for others: paths of this machine become their last part."""
    return _json(_without_folders(json.loads(text)))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    return shown(value) if isinstance(value, str) and re.match(r"https?://", value) else value


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    is_local = isinstance(value, str) and Path(value).expanduser().is_absolute()
    return Path(value).name if is_local else value
