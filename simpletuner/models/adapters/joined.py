"""LoRAs on several networks of one model, such as the transformer and its text encoders, as one adapter in one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletuner.errors import CheckpointError
from simpletuner.models.adapters.formats.files import encode
from simpletuner.models.adapters.formats.neutral import Lora as Weights
from simpletuner.models.adapters.lora_file import decode_parts, encode_parts, neutral
from simpletuner.models.adapters.lora_state import lora_layers
from simpletuner.models.adapters.norms import limit
from simpletuner.models.trained import Group
from simpletuner.seeds import derive

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from simpletuner.models.adapters.lora import Lora, LoraPlan


@dataclass(frozen=True)
class Companion:
    """A network beside the one that an adapter is put on, and what it gets."""

    module: nn.Module
    plan: LoraPlan
    learning_rate: float | None = None
    """The peak of its own, or None for that of the run."""


@dataclass(frozen=True)
class JoinedPlan:
    """What several LoRAs look like before they exist."""

    first: LoraPlan
    others: Sequence[Companion]

    def attach(self, module: nn.Module, dtype: torch.dtype, seed: int) -> JoinedLora:
        """Put the first on a frozen network and the others on theirs."""
        own = Member(self.first.attach(module, dtype, seed))
        rest = (Member(one.plan.attach(one.module, dtype, _seed(seed, one)), one.learning_rate) for one in self.others)
        return JoinedLora((own, *rest))


def _seed(seed: int, companion: Companion) -> int:
    return derive(seed, companion.plan.part)


@dataclass(frozen=True)
class Member:
    """One of several LoRAs."""

    lora: Lora
    learning_rate: float | None = None

    @property
    def part(self) -> str:
        """What of the model it is on, as files name it."""
        return self.lora.plan.part

    def groups(self) -> Iterator[Group]:
        """Its weights under names that tell what of the model they are of."""
        for group in self.lora.groups():
            named = {f"{self.part}.{name}": parameter for name, parameter in group.parameters.items()}
            rate = self.learning_rate if group.learning_rate is None else group.learning_rate
            yield Group(named, rate, group.multiplier)


@dataclass(frozen=True)
class JoinedLora:
    """Several LoRAs that are trained, saved and switched off together."""

    members: tuple[Member, ...]

    def groups(self) -> Sequence[Group]:
        """The groups of all of them, in their order."""
        return [group for member in self.members for group in member.groups()]

    def state(self) -> Mapping[str, Tensor]:
        """The weights of all of them under PEFT's names, after what of the model they are of."""
        return {f"{one.part}.{name}": tensor for one in self.members for name, tensor in one.lora.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put saved weights back."""
        given = {one.part: _inside(state, one.part) for one in self.members}
        if missing := [part for part, found in given.items() if not found]:
            raise CheckpointError(
                f"the saved adapter has nothing for the {missing[0].partition('.')[0]}. Use the train_text_encoder and "
                f"train_t5xxl of the saved run, or start anew with resume_from_checkpoint set to none."
            )
        for one in self.members:
            one.lora.load(given[one.part])

    def encode(self, metadata: Mapping[str, str]) -> bytes:
        """A diffusers file whose scaling is in its header."""
        return encode_parts({one.part: one.lora.module for one in self.members}, metadata)

    def decode(self, data: bytes) -> Mapping[str, Tensor]:
        """The weights of such a file."""
        return decode_parts(data)

    def publish(self, metadata: Mapping[str, str]) -> bytes:
        """A file in the form that `lora_format` names."""
        found = (neutral(one.lora.module, one.part) for one in self.members)
        layers = {name: layer for weights in found for name, layer in weights.layers.items()}
        return encode(Weights(layers), self.members[0].lora.plan.file_format, metadata)

    @contextmanager
    def without(self) -> Iterator[None]:
        """Switch all of them off."""
        with ExitStack() as switches:
            for member in self.members:
                switches.enter_context(member.lora.without())
            yield

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Multiply what all of them add; prompts that are encoded meanwhile follow."""
        with ExitStack() as switches:
            for member in self.members:
                switches.enter_context(member.lora.scaled(factor))
            yield

    def after_step(self) -> Mapping[str, float]:
        """Keep what the layers of all networks add within `max_norm`."""
        largest = self.members[0].lora.plan.max_norm
        if largest is None:
            return {}
        return limit((layer for one in self.members for layer in lora_layers(one.lora.module).values()), largest)


def _inside(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
