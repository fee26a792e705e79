"""Images cannot be in memory, and the data file says so."""

import pytest
from pydantic import ValidationError

from simpletuner.complaints import problems
from simpletuner.data.sources.embeds import TextEmbeds
from simpletuner.data.sources.memory import Memory
from simpletuner.schema import without_effect


def test_images_in_memory_are_refused_with_the_remedy_and_with_nothing_else() -> None:
    with pytest.raises(ValidationError) as caught:
        Memory.model_validate({"id": "a", "type": "memory", "nonsense": 1, "resolution": "large"})
    (problem,) = problems(caught.value, [], lambda path: " > ".join(map(str, path)), page="DATALOADER.md")
    assert str(problem) == (
        "type: 'memory' keeps caches, not images; use type local for these images, on a memory disk if you like, "
        "or set dataset_type to text_embeds or image_embeds if this is a cache"
    )


def test_what_simpletuner_needs_for_its_folder_in_memory_is_accepted_and_does_nothing() -> None:
    entry = TextEmbeds.model_validate(
        {"id": "t", "type": "memory", "memory_filesystem_path": "/mnt/m", "memory_filesystem_size": "8G"}
    )
    assert dict(without_effect(entry)) == dict.fromkeys(
        ("memory_filesystem_path", "memory_filesystem_size"),
        "what is kept in memory needs no folder, no size and no rights",
    )
