"""How well pictures fit their prompts, as CLIP sees it: a hundred times the likeness of both, and 0 at least.

Hessel et al. 2021, CLIPScore, arXiv 2104.08718, with the weight that torchmetrics gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from simpletuner.models.sources import loading

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

Score = Callable[["Image.Image", str], float]


def is_there(source: str) -> None:
    """Raise a ModelError unless the model can be loaded; it is downloaded, so that it is there when it is wanted."""
    _load(source)


@contextmanager
def scorer(source: str, device: torch.device) -> Iterator[Score]:
    """What scores a picture for a prompt; the model is in memory only inside the ``with``.

    Raises:
        ModelError: There is no such model, or it cannot be loaded.
    """
    model, processor = _load(source)
    model.to(device).eval()
    yield partial(_score, model, processor, device)


def _score(model: Any, processor: Any, device: torch.device, image: Image.Image, prompt: str) -> float:
    import torch
    from torch.nn.functional import cosine_similarity

    length = model.config.text_config.max_position_embeddings
    given = processor(
        text=[prompt], images=[image], return_tensors="pt", padding=True, truncation=True, max_length=length
    )
    with torch.no_grad():
        found = model(**{name: tensor.to(device) for name, tensor in given.items()})
    likeness: Tensor = cosine_similarity(found.image_embeds.float(), found.text_embeds.float())
    return max(0.0, 100 * float(likeness))


def _load(source: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    with loading("The model of evaluation_type clip", source, option="pretrained_evaluation_model_name_or_path"):
        return CLIPModel.from_pretrained(source), CLIPProcessor.from_pretrained(source)


def summary(scores: Sequence[float]) -> Mapping[str, float]:
    """What is told of many scores."""
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((one - mean) ** 2 for one in scores) / len(scores))
    return {"min": min(scores), "max": max(scores), "mean": mean, "std": spread}
