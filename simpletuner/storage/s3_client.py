"""Which bucket, where, and as whom: and the client of boto3 that goes there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from simpletuner.errors import DataError
from simpletuner.storage.retries import Patience, Unreachable
from simpletuner.storage.s3_errors import told


@dataclass(frozen=True)
class Address:
    """Which bucket, where it is, and who asks."""

    bucket: str
    endpoint: str | None = None
    """The address of the service; Amazon's unless given."""
    region: str | None = None
    access_key_id: SecretStr | None = None
    """With the secret; both are looked for in the usual AWS variables and files unless given."""
    secret_access_key: SecretStr | None = None
    connections: int = 128
    owner: str = ""
    """Which entry of the data file asks, such as "data set 'photos'"; messages begin with it."""

    @property
    def host(self) -> str:
        """The address of the service without a user or a password; empty for Amazon's."""
        if not self.endpoint:
            return ""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def named(self, key: str) -> str:
        """Where an object is, as the user would look for it."""
        return f"s3://{self.bucket}/{key}" + (f" at {self.host}" if self.host else "")

    def complained(self, what: str) -> str:
        """What was tried and did not work, with who tried it."""
        return f"{self.owner}: cannot {what}" if self.owner else f"cannot {what}"

    def __str__(self) -> str:
        return f"bucket '{self.bucket}'" + (f" at {self.host}" if self.host else "")


def connected(address: Address, patience: Patience) -> Any:  # boto3 makes its classes at run time
    """A client of boto3 that tries everything once; nothing is sent yet."""
    try:
        import boto3.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise DataError(f"{address} needs boto3. Install it: pip install 'simpletuner[s3]'") from error

    # At its most talkative, botocore writes the names of keys and the signatures made with them.
    logging.getLogger("botocore").setLevel(logging.INFO)
    config = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.stall,
        max_pool_connections=address.connections,
        retries={"total_max_attempts": 1},
        tcp_keepalive=True,
        request_checksum_calculation="when_required",  # MD5, which every service knows, is sent instead
    )
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=address.endpoint,
            region_name=address.region,
            aws_access_key_id=_revealed(address.access_key_id),
            aws_secret_access_key=_revealed(address.secret_access_key),
            config=config,
        )
    except BotoCoreError as error:
        raise told(error, address.complained(f"use {address}")) from error
    except ValueError as error:
        what = address.complained(f"use {address}")
        raise Unreachable(f"{what}: its address is not valid. Check aws_endpoint_url.") from error


def _revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
