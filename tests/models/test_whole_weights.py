"""Whole networks as what is trained: their folders, what diffusers reads in them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from simpletuner.errors import CheckpointError, DataError, TrainingError
from simpletuner.models import shards
from simpletuner.models.trained import parameters_of
from simpletuner.models.weight_files import folder_contents
from simpletuner.models.whole import Whole


def _whole(**options: object) -> Whole:
    module = tiny.flux()
    module.requires_grad_(True)
    return Whole(module, **options)


def _same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _changed(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def test_every_weight_of_the_network_is_trained_in_one_group() -> None:
    """Nothing is left out, and the names are those of the network."""
    whole = _whole()

    assert list(parameters_of(whole)) == [name for name, _ in whole.module.named_parameters()]


@pytest.mark.parametrize("limit", [shards.LIMIT, 20_000], ids=["one file", "several files"])
def test_diffusers_loads_what_is_published(tmp_path: Path, limit: int) -> None:
    """As one file, or in shards with an index, the stock class reads every weight as it is."""
    whole = _whole(limit=limit)

    place = whole.publish(tmp_path, {"modelspec.title": "mine"})

    loaded = FluxTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer")
    files = sorted(place.glob("*.safetensors"))
    assert place == tmp_path / "transformer"
    assert _same(loaded, whole.module)
    assert (len(files) > 1) == (limit < shards.LIMIT)
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "modelspec.title": "mine"}


def test_no_file_is_larger_than_the_limit_and_the_index_names_each_weight(tmp_path: Path) -> None:
    """The index is what diffusers writes: the size of all weights, and a file for each."""
    _whole(limit=20_000).publish(tmp_path, {})

    place = tmp_path / "transformer"
    index = json.loads((place / "diffusion_pytorch_model.safetensors.index.json").read_text())
    sizes = {file.name: sum(one.nbytes for one in load_file(file).values()) for file in place.glob("*.safetensors")}
    alone = {name for name in sizes if list(index["weight_map"].values()).count(name) == 1}
    assert all(size <= 20_000 or name in alone for name, size in sizes.items())
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    assert set(index["weight_map"].values()) == set(sizes)


def test_a_checkpoint_gives_the_weights_back_exactly_also_where_the_result_is_rounded(tmp_path: Path) -> None:
    """What is trained is kept as it is; only the result has the precision that was asked for."""
    whole = _whole(dtype=torch.bfloat16, limit=20_000)
    wanted = {name: one.clone() for name, one in whole.module.state_dict().items()}
    whole.save(tmp_path, {})
    place = whole.publish(tmp_path / "result", {})

    _changed(whole.module)
    whole.restore(tmp_path)

    assert all(torch.equal(one, wanted[name]) for name, one in whole.module.state_dict().items())
    result = FluxTransformer2DModel.from_pretrained(place, torch_dtype=torch.bfloat16)
    assert {entry.kind for entry in folder_contents(place).values()} == {"BF16"}
    assert all(torch.equal(one, wanted[name].bfloat16()) for name, one in result.state_dict().items())


def test_the_config_does_not_tell_where_the_base_was(tmp_path: Path) -> None:
    """A path on the trainer's machine is nobody's business."""
    plain = tiny.flux()
    module = FluxTransformer2DModel.from_config({**plain.config, "_name_or_path": "/home/somebody/secret"})

    Whole(module).publish(tmp_path, {})

    assert "secret" not in (tmp_path / "transformer" / "config.json").read_text()


def test_the_base_is_there_until_the_first_step(tmp_path: Path) -> None:
    """Before it, the network is the base; afterwards and after a checkpoint, asking for it is an error."""
    whole = _whole()
    with whole.without():
        pass
    whole.save(tmp_path, {})

    whole.after_step()

    with pytest.raises(TrainingError, match="no copy of it is kept"), whole.without():
        pass
    resumed = _whole()
    resumed.restore(tmp_path)
    with pytest.raises(TrainingError), resumed.without():
        pass


def test_a_result_replaces_the_one_before_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """Shards of a larger result do not stay among those of a smaller one."""
    _whole(limit=20_000).publish(tmp_path, {})
    (tmp_path / ".transformer.partial").mkdir()

    whole = _whole()
    _changed(whole.module)
    whole.publish(tmp_path, {})

    assert sorted(one.name for one in tmp_path.iterdir()) == ["transformer"]
    assert sorted(one.name for one in (tmp_path / "transformer").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert _same(FluxTransformer2DModel.from_pretrained(tmp_path / "transformer"), whole.module)


def test_a_result_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """A file where the folder should be: one message."""
    (tmp_path / "output").write_text("in the way")

    with pytest.raises(DataError, match="A file is in the way where a folder is needed"):
        _whole().publish(tmp_path / "output", {})


def _of_another_shape(folder: Path) -> None:
    with torch.random.fork_rng():
        config = {**tiny.flux().config, "num_single_layers": 4}
        Whole(FluxTransformer2DModel.from_config(config)).save(folder, {})


def _in_another_precision(folder: Path) -> None:
    Whole(tiny.flux().bfloat16()).save(folder, {})


def _cut_off(folder: Path) -> None:
    _whole().save(folder, {})
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_of_another_shape, "single_transformer_blocks.4.attn.* is in only one of them"),
        (_in_another_precision, "is BF16 with shape .* there, and F32 with shape"),
        (_cut_off, "ends too early"),
        (lambda folder: None, "there is no folder"),
    ],
)
def test_weights_of_another_run_are_refused_before_anything_is_changed(tmp_path: Path, spoil, words: str) -> None:
    """Other layers, another precision, a file that was cut off, or none."""
    spoil(tmp_path)
    whole = _whole()

    with pytest.raises(CheckpointError, match=words):
        whole.restore(tmp_path)

    assert _same(whole.module, tiny.flux())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a moment")
def test_writing_needs_no_room_for_a_second_copy(tmp_path: Path) -> None:
    """Memory grows by a few megabytes while fifty are written, also when every tensor is made another kind."""
    tensors = {str(number): torch.ones(250_000) for number in range(100)}
    path = tmp_path / "all.safetensors"
    shards.write_file(path, {"warm": torch.zeros(1)}, {})

    resident = _memory("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    shards.write_file(path, tensors, {}, dtype=torch.bfloat16)
    grown = _memory("VmHWM:") - resident

    assert path.stat().st_size > 50_000_000
    assert grown < 15_000_000


def _memory(of: str) -> int:
    """Bytes of main memory that this process has, or had at most."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(of) + 1]) * 1024


def test_every_kind_of_number_is_read_back_by_safetensors(tmp_path: Path) -> None:
    """Also scalars, empty tensors, views that are not contiguous, and kinds of different widths in one file."""
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "turned": torch.randn(3, 5).t(),
        "half": torch.randn(7).bfloat16(),
        "empty": torch.empty(0, 4),
        "whole": torch.arange(5),
        "small": torch.randn(3).to(torch.float8_e4m3fn),
        "yes": torch.tensor([True, False]),
    }

    shards.write_file(tmp_path / "all.safetensors", tensors, {"said": "so"})

    found = load_file(tmp_path / "all.safetensors")
    assert found.keys() == tensors.keys()
    for name, one in tensors.items():
        assert found[name].dtype == one.dtype
        assert torch.equal(
            found[name].view(torch.uint8) if name == "small" else found[name],
            one.view(torch.uint8) if name == "small" else one,
        )
