"""Keeping libraries quiet: their own chatter is not for users; what matters comes as events."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Switch off what libraries print by themselves, for commands that load a model or read images."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # Without this, two threads on a busy machine wait for each other by spinning: up to ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "httpx", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
