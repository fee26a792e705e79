"""A table of addresses and captions: every option is known, fetching is not served yet."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from simpletuner.data.sources.base import DataBackend


class Csv(DataBackend):
    """Images from the web, listed in a CSV table with their captions."""

    not_yet: ClassVar[str] = "download the images to a folder and use type local"

    csv_file: Path
    """The table."""
    csv_cache_dir: Path
    """Where fetched images are kept."""
    csv_caption_column: str
    """The column with captions."""
    csv_url_column: str = "url"
    """The column with addresses."""
