"""Where weights come from: what a source is called, what is wrong with it, and what is fetched of it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from servers import hub_data

from simpletuner.models.sources import fingerprint, is_file, is_local, part_folder, wrong_with


def test_a_source_is_a_folder_a_file_or_an_id(tmp_path):
    assert is_file("~/models/flux1-dev.safetensors") and is_file("ae.sft") and not is_file("you/model.v1")
    assert is_local(str(tmp_path)) and not is_local("black-forest-labs/FLUX.1-dev")


def test_what_cannot_be_read_is_told_before_it_is_opened(tmp_path):
    (tmp_path / "there.safetensors").touch()
    assert wrong_with(str(tmp_path)) is wrong_with(f"{tmp_path}/there.safetensors") is wrong_with("you/model") is None
    assert wrong_with(f"{tmp_path}/not.safetensors") == f"there is no file '{tmp_path}/not.safetensors'; check the path"
    assert wrong_with("/no/where") == (
        "there is no folder '/no/where'; give a folder in diffusers layout, a .safetensors file, or an id on the Hub"
    )
    assert "is a pickle" in wrong_with("model.ckpt")
    assert "is a GGUF file" in wrong_with("flux1-dev-Q8_0.gguf")


def test_a_single_file_is_named_for_what_it_holds(tmp_path):
    one, same, other = (tmp_path / f"{name}.safetensors" for name in ("one", "same", "other"))
    one.write_bytes(b"a" * 100)
    shutil.copy(one, same)
    other.write_bytes(b"b" * 100)
    moved = tmp_path / "moved"
    moved.mkdir()
    names = [fingerprint(str(path), "transformer", None) for path in (one, other)]
    assert names[0] != names[1]
    shutil.move(one, moved / "one.safetensors")
    assert fingerprint(str(moved / "one.safetensors"), "transformer", None) == names[0]


def test_a_folder_may_be_the_part_itself(model, tmp_path):
    alone = shutil.copytree(model / "vae", tmp_path / "my-vae")
    assert part_folder(str(alone), "vae") == alone
    assert part_folder(str(model), "vae") == model / "vae"
    assert fingerprint(str(alone), "vae", None) == fingerprint(str(model), "vae", None)
    (alone / "config.json").write_text("{}")
    assert fingerprint(str(alone), "vae", None) != fingerprint(str(model), "vae", None)


class ModelHub(hub_data.DataHub):
    """The small Hub of data sets, with models in their place."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.RequestHandlerClass = _ModelHandler


class _ModelHandler(hub_data._Handler):
    def _answer_request(self, body=None):
        is_api = self.path.startswith("/api/models/")
        self.path = self.path.replace("/api/models/", "/api/datasets/") if is_api else f"/datasets{self.path}"
        super()._answer_request(body)


CODE = """
import json, sys
from simpletuner.errors import ModelError
from simpletuner.models.sources import loading, part_folder
for source, subfolder, variant in json.loads(sys.argv[1]):
    try:
        with loading("The transformer", source):
            folder = part_folder(source, subfolder, variant=variant)
            print(sorted(path.name for path in folder.iterdir() if path.is_file()))
    except ModelError as error:
        print(error)
"""


@pytest.fixture
def small_hub(monkeypatch):
    files = {
        "flux1-dev.safetensors": b"a whole model once more",
        "transformer/config.json": b"{}",
        "transformer/model-00001.safetensors": b"weights",
        "transformer/model.fp16.safetensors": b"half",
        "transformer/model.bin": b"a pickle",
        "vae/config.json": b"{}",
    }
    monkeypatch.setattr(hub_data, "DataHub", ModelHub)
    with hub_data.running({"you/flux": files, "you/gated": files}, frozenset({"you/gated"})) as server:
        yield server


def test_of_a_repository_only_one_part_in_one_variant_is_fetched_and_never_a_pickle(small_hub, tmp_path):
    wanted = [("you/flux", "transformer", None), ("you/gated", "transformer", None), ("you/nothing", "vae", None),
              ("you/flux", "transformer", "fp16")]  # fmt: skip
    environment = {**os.environ, **small_hub.environment(str(tmp_path))}
    command = [sys.executable, "-c", CODE, json.dumps(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    plain, gated, nothing, variant = done.stdout.splitlines()
    assert plain == "['config.json', 'model-00001.safetensors']"
    assert variant == "['config.json', 'model-00001.safetensors', 'model.fp16.safetensors']"
    assert gated.startswith("The transformer could not be loaded from 'you/gated': 403") and "set HF_TOKEN" in gated
    assert (
        nothing.startswith("The transformer could not be loaded from 'you/nothing': 404") and "Check the id" in nothing
    )
    assert small_hub.sent["you/flux/flux1-dev.safetensors"] == small_hub.sent["you/flux/transformer/model.bin"] == 0
