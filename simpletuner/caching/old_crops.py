"""Where SimpleTuner has cropped images, as the files say that it leaves beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from simpletuner.caching.old import Refused
from simpletuner.data.items import Record
from simpletuner.data.sources.base import Source


@dataclass(frozen=True)
class OldCrops:
    """What is known about the crops of a folder; the name of a file, without its folder, leads to what was done."""

    known: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @staticmethod
    def of(source: Source) -> OldCrops:
        """What the folder of a source holds; nothing for a source that is no folder on this machine."""
        root = Path(source.name(""))
        found: dict[str, tuple[Mapping[str, Any], ...]] = {}
        for facts, path, style in _all(root) if root.is_dir() else ():
            name = PurePosixPath(path).name
            found[name] = (*found.get(name, ()), {**facts, "path": path, "crop_style": style})
        return OldCrops(found)

    def refuse_another(self, record: Record) -> None:
        """Refuse latents of an image unless they show exactly the part that the record has."""
        placement = record.placement
        candidates = [one for one in self.known.get(PurePosixPath(record.key).name, ()) if _is_of(one, record.key)]
        if not candidates:
            if placement.resize != placement.bucket:
                raise Refused("which part of the image it shows is not known")
            return
        expected = (list(placement.resize), list(placement.bucket))
        fitting = [one for one in candidates if (one.get("intermediary_size"), one.get("target_size")) == expected]
        if not fitting:
            raise Refused("it was resized otherwise than this config does")
        if placement.resize == placement.bucket:
            return
        if any(one["crop_style"] in _UNRELIABLE for one in fitting):
            raise Refused("it was cropped at random, and where is not known")
        left, top = placement.crop
        if all(one.get("crop_coordinates") != [top, left] for one in fitting):
            raise Refused("it shows another part of the image than this config does")


def _all(root: Path) -> Iterator[tuple[Mapping[str, Any], str, str | None]]:
    """The facts of each image, its path, and how its data set was cropped."""
    for path in sorted(root.glob("aspect_ratio_bucket_metadata_*.json")):
        beside = path.with_name(path.name.replace("_metadata_", "_indices_", 1))
        config = _json(beside).get("config")
        style = config.get("crop_style", "random") if isinstance(config, Mapping) else None
        for image, facts in _json(path).items():
            if isinstance(facts, Mapping):
                yield facts, image, style


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _is_of(facts: Mapping[str, Any], key: str) -> bool:
    path = str(facts["path"])
    return path == key or path.endswith(f"/{key}")


_UNRELIABLE = {"random", None}
"""For random crops, what is written down is not what was cut out."""
