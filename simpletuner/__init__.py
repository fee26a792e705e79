"""Fine-tune FLUX.1 from two JSON files."""

__version__ = "0.1.0"
