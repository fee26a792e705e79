"""Any S3-compatible bucket: every option is known, reading is not served yet."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from simpletuner.data.sources.base import DataBackend
from simpletuner.schema import Section


class Bucket(Section):
    """How to reach a bucket."""

    aws_bucket_name: str
    """The name of the bucket."""
    aws_endpoint_url: str | None = None
    """The address of the service, for any that is not Amazon's."""
    aws_access_key_id: SecretStr
    """Who you are; write {env:NAME} to take it from the environment."""
    aws_secret_access_key: SecretStr
    """Your secret; write {env:NAME} to take it from the environment."""
    aws_region_name: str | None = None
    """Where the bucket is."""
    aws_data_prefix: str = ""
    """The folder in the bucket."""
    aws_max_pool_connections: int = Field(default=128, ge=1)
    """How many connections are open at once."""


class Aws(DataBackend, Bucket):
    """Images in an S3-compatible bucket."""

    not_yet: ClassVar[str] = "copy the bucket to a folder and use type local"
