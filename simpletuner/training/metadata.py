"""What a saved adapter says about itself in its header, by the modelspec convention that other programs read."""

from __future__ import annotations

from collections.abc import Sequence


def modelspec(
    *, architecture: str, title: str, resolution: str, triggers: Sequence[str], comment: str | None
) -> dict[str, str]:
    """Header entries of an adapter file.

    The names are those of the Stability AI model metadata standard 1.0.1.
    """
    entries = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": resolution,
        "modelspec.prediction_type": "flow_matching",
        "modelspec.trigger_phrase": ", ".join(triggers),
        "modelspec.comment": comment or "",
    }
    return {name: value for name, value in entries.items() if value}
