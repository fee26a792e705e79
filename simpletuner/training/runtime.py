"""The one place that knows accelerate: device, processes, precision of arithmetic, gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from simpletuner.errors import ConfigError, DoesNotFit, Problem
from simpletuner.models.family import Compute
from simpletuner.seeds import derive
from simpletuner.training.group import Alone, Group

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Runtime:
    """Where and how this process computes."""

    accelerator: Accelerator
    compute: Compute
    seed: int
    group: Group = field(default_factory=Alone)
    """The processes that train together."""

    @staticmethod
    def start(mixed_precision: Literal["no", "bf16"], seed: int, group: Group | None = None) -> Runtime:
        """Pick the device and set up arithmetic."""
        import torch
        from accelerate import Accelerator

        # Mixed precision is ours to switch: accelerate keeps it in a state that lives as long as the process.
        group = group or Alone()
        accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available() and group.place.processes > 1)
        # Losses are divided where they are made; a launcher's environment must not divide them again.
        accelerator.gradient_accumulation_steps = 1
        if accelerator.num_processes != group.place.processes:
            told = f"{accelerator.num_processes} processes were started by something else; use simpletuner train"
            raise ConfigError("the launcher", [Problem("num_processes", told)])
        dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
        return Runtime(accelerator, Compute(accelerator.device, dtype), seed, group)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.compute.device

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.group.place.processes

    def generator(self, purpose: str, *numbers: int | str) -> torch.Generator:
        """A generator for exactly one draw; the same on every device, so it lives on the CPU."""
        return generator(self.seed, purpose, *numbers)

    def reseed(self, purpose: str, *numbers: int | str) -> None:
        """Fix what draws without a generator of its own, such as dropout, for the next piece of work."""
        import torch

        torch.manual_seed(derive(self.seed, purpose, *numbers))

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> Optimizer:
        """Move the network to the device and let accelerate take the optimizer."""
        module.to(self.device)
        prepared: Optimizer = self.accelerator.prepare(optimizer)
        return prepared

    def autocast(self) -> AbstractContextManager[Any]:
        """Arithmetic in the mixed precision of the run."""
        import torch

        is_mixed = self.compute.dtype == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_mixed)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        self.accelerator.backward(loss)

    def clip(self, parameters: Iterable[nn.Parameter], limit: float, method: str) -> float:
        """Limit the gradients, all together (``norm``) or each by itself (``value``); returns the norm before."""
        import torch

        gradients = list(parameters)
        if method == "norm" and limit > 0:
            return float(self.accelerator.clip_grad_norm_(gradients, limit))
        norm = torch.nn.utils.get_total_norm([one.grad for one in gradients if one.grad is not None])
        if limit > 0:
            self.accelerator.clip_grad_value_(gradients, limit)
        return float(norm)

    def release(self) -> None:
        """Give memory that nobody holds any more back to the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def fits_memory(levers: Sequence[str]) -> Iterator[None]:
    """Says which options would help when the device runs out of memory inside the ``with``.

    Args:
        levers: Options that save memory and are not used, cheapest first.

    Raises:
        DoesNotFit: The device ran out of memory.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = "; ".join(levers)
        raise DoesNotFit(f"the device ran out of memory. What would help, cheapest first: {advice}.") from error


def generator(seed: int, purpose: str, *numbers: int | str) -> torch.Generator:
    """A CPU generator seeded for one purpose and these numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, purpose, *numbers))
