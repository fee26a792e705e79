"""To whom messages about a run are sent. Addresses of webhooks let anybody write, so they are never shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, model_validator

from simpletuner.data.sources.aws import Secret
from simpletuner.schema import Section, conflict, words

TYPES = words(
    "webhook",
    {
        "discord": "A channel of Discord, which is given texts and pictures at webhook_url.",
        "raw": "A service of your own, which is given JSON at callback_url.",
    },
)
LEVELS = words(
    "level",
    {
        "critical": "Only what ends a run.",
        "error": "Only what ends a run.",
        "warning": "What ends a run, and notes that a run makes.",
        "info": "That, and what a run has done: checkpoints, pictures, its end.",
        "debug": "Everything, every step included.",
    },
)


def _web_address(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # which quotes what may be a secret
        is_one = False
    if not is_one:
        raise ValueError("must be an address that begins with https:// or http://")
    if not text.isprintable() or " " in text:
        raise ValueError("must be an address without spaces and line breaks")
    return SecretStr(text)


def _header(value: SecretStr) -> SecretStr:
    """What goes into a header is plain; the line break at the end of a file is nobody's intention."""
    text = value.get_secret_value().strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must be plain letters, digits and signs, because it is sent in a header")
    return SecretStr(text)


Address = Annotated[Secret, AfterValidator(_web_address)]
Word = Annotated[Secret, AfterValidator(_header)]


class Webhook(Section):
    """A service that is sent messages about the run."""

    webhook_type: Annotated[str, TYPES] = "discord"
    """The form of the messages."""
    webhook_url: Address | None = None
    """The address that Discord shows for a channel."""
    callback_url: Address | None = None
    """The address of a service of your own."""
    message_prefix: str | None = None
    """The words in front of each message; tracker_project_name unless given."""
    log_level: Annotated[str, LEVELS] = "info"
    """How much is sent."""
    auth_token: Word | None = None
    """A word that a service of your own knows the run by; sent as the header X-API-Key."""
    ssl_no_verify: bool = False
    """Trusts a server whose certificate cannot be checked."""

    @model_validator(mode="after")
    def _has_an_address(self) -> Webhook:
        needed = "webhook_url" if self.webhook_type == "discord" else "callback_url"
        if self.address is None:
            raise conflict(needed, f"is required for webhook_type {self.webhook_type}")
        return self

    @property
    def address(self) -> SecretStr | None:
        """Where messages go."""
        return self.webhook_url if self.webhook_type == "discord" else self.callback_url


def _listed(value: Any) -> Any:
    """Accept one webhook, a list of them, or either as JSON text; what is in it must not be quoted in an error."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise ValueError(f"is not JSON: {error.msg} at {where}") from None
    if not isinstance(value, (Mapping, list, tuple)):
        raise ValueError("must be an object, a list of objects, or the name of a JSON file")
    return [value] if isinstance(value, Mapping) else value


Webhooks = Annotated[tuple[Webhook, ...], BeforeValidator(_listed)]
"""Any number of webhooks."""
