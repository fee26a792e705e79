"""The defaults of all data sets: lenient about numbers, strict about names, and never a danger to images."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from simpletuner.data.options import DataDefaults
from simpletuner.data.sources import SOURCES
from simpletuner.schema import refusals, without_effect


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"resolution": "0.5"}, "resolution", 0.5),
        ({"resolution": 1024}, "resolution", 1024.0),
        ({"minimum_image_size": 0.5}, "minimum_image_size", 0.5),
        ({"aspect_bucket_rounding": "2.0"}, "aspect_bucket_rounding", 2),
        ({"prepend_instance_prompt": "false"}, "prepend_instance_prompt", False),
        ({"instance_prompt": "a cat, on a mat"}, "instance_prompt", ("a cat, on a mat",)),
        ({"instance_prompt": ["a", "b"]}, "instance_prompt", ("a", "b")),
        ({"instance_prompt": ""}, "instance_prompt", ()),
        ({"skip_file_discovery": "vae,text"}, "skip_file_discovery", ("vae", "text")),
        ({"minimum_image_size": ""}, "minimum_image_size", None),
        ({"caption_strategy": "instance_prompt"}, "caption_strategy", "instance_prompt"),
    ],
)
def test_values_may_be_written_as_people_write_them(given: dict[str, Any], name: str, value: object) -> None:
    assert DataDefaults(**given).__dict__[name] == value


@pytest.mark.parametrize("name", ["delete_unwanted_images", "delete_problematic_images", "delete_nsfw_images"])
def test_images_are_never_deleted(name: str) -> None:
    assert not DataDefaults(**{name: "false"}).__dict__[name]
    with pytest.raises(ValidationError, match="your images are never deleted"):
        DataDefaults(**{name: True})


def test_what_is_not_served_is_refused_with_advice() -> None:
    assert dict(refusals(DataDefaults(enable_nsfw_check=True))) == {
        "enable_nsfw_check": "true is not served yet; sort such images out beforehand"
    }


def test_what_is_not_served_may_be_switched_off() -> None:
    assert list(refusals(DataDefaults(enable_nsfw_check=False, max_grounding_entities=0))) == []


def test_what_has_no_effect_is_told() -> None:
    assert dict(without_effect(DataDefaults(compress_disk_cache=False))) == {
        "compress_disk_cache": "caches are safetensors files, which hardly compress"
    }


@pytest.mark.parametrize("section", [DataDefaults, *SOURCES.values()], ids=lambda section: section.__name__)
def test_every_option_says_in_a_sentence_what_it_is_for(section: type[DataDefaults]) -> None:
    for name, field in section.model_fields.items():
        assert field.description and field.description.endswith("."), name


def test_reading_a_data_file_imports_nothing_heavy() -> None:
    heavy = {"torch", "pyarrow", "pandas", "cv2", "datasets", "boto3", "httpx", "huggingface_hub", "jinja2"}
    code = f"import sys, simpletuner.data.checks; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_nothing_about_data_needs_torch() -> None:
    code = (
        "import sys, simpletuner.data.dataset, simpletuner.data.sampler, simpletuner.storage.memory;"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
