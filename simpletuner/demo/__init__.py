"""A tiny Flux model and a drawn data set, so that training can be tried in minutes on any machine."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""Where the embedded FluxPipeline lies, in diffusers layout."""
