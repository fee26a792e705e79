"""Which of several processes this one is: what a launcher tells each process that it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simpletuner.errors import ConfigError, Problem


@dataclass(frozen=True)
class Place:
    """The place of a process among those that train together."""

    rank: int = 0
    """Its number among all of them."""
    processes: int = 1
    """How many there are on all machines."""
    local_rank: int = 0
    """Its number on its machine."""

    @staticmethod
    def read(environment: Mapping[str, str]) -> Place | None:
        """The place that a launcher gave this process; nothing when no launcher started it.

        Raises:
            ConfigError: The launcher was told to spread the model over cards.
        """
        for kind in ("FSDP", "DEEPSPEED"):
            if environment.get(f"ACCELERATE_USE_{kind}", "").lower() == "true":
                what = f"asks for {kind}, which is not served; each process keeps the whole model"
                raise ConfigError("the launcher", [Problem("accelerate", what)])
        if not environment.get("WORLD_SIZE", "").isdigit() or "RANK" not in environment:
            return None
        rank = int(environment["RANK"])
        return Place(rank, int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", rank)))

    def variables(self) -> dict[str, str]:
        """How it is told to a process."""
        return {"RANK": str(self.rank), "WORLD_SIZE": str(self.processes), "LOCAL_RANK": str(self.local_rank)}
