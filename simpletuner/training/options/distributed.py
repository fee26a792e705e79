"""Several processes or machines."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from simpletuner.schema import NoEffect, NotYet, Section, belongs_to

_WHOLE = NotYet(
    "leave it out: each process keeps the whole model; base_model_precision, gradient_checkpointing and blocks_to_swap "
    "make it smaller"
)


class Distributed(Section):
    """Several processes or machines."""

    num_processes: int = Field(default=1, ge=1)
    """How many processes train together on all machines, usually one for each card; each adds its batches to a step."""
    num_machines: int = Field(default=1, ge=1)
    """How many machines train together; start the same command on each, with its own machine_rank."""
    main_process_ip: str = "127.0.0.1"
    """The address of the first machine; only several machines need it."""
    main_process_port: int = Field(default=29500, ge=0, lt=65536)
    """The port of the first machine; one machine alone takes any that is free unless this is set."""
    machine_rank: int = Field(default=0, ge=0)
    """The number of this machine, from 0."""
    same_network: Annotated[bool, NoEffect("machines only have to reach main_process_ip")] = True
    """Says that all machines are in one network."""
    accelerate_config: str | None = None
    """A config file of accelerate; numbers of processes, machines and cards and the address are taken from it."""
    accelerate_extra_args: str | None = None
    """Arguments of accelerate launch, such as --gpu_ids 0,1; the same as in a config file of accelerate."""
    deepspeed_config: Annotated[Any, _WHOLE] = None
    """Spreads the optimizer and weights over cards and main memory by DeepSpeed."""
    offload_param_path: Annotated[str | None, belongs_to("deepspeed_config")] = None
    """The folder on a fast disk where DeepSpeed keeps weights."""
    fsdp_enable: Annotated[bool, _WHOLE] = False
    """Spreads the weights over several cards by FSDP."""
    fsdp_version: Annotated[int, belongs_to("fsdp_enable")] = 2
    """The version of FSDP."""
    fsdp_reshard_after_forward: Annotated[bool, belongs_to("fsdp_enable")] = True
    """Spreads weights again as soon as a block has used them."""
    fsdp_state_dict_type: Annotated[str | None, belongs_to("fsdp_enable")] = None
    """Whether checkpoints are saved whole or in parts."""
    fsdp_auto_wrap_policy: Annotated[str | None, belongs_to("fsdp_enable")] = None
    """By what rule FSDP divides the model."""
    fsdp_transformer_layer_cls_to_wrap: Annotated[str | None, belongs_to("fsdp_enable")] = None
    """The names of the classes at which FSDP divides the model."""
    fsdp_cpu_offload: Annotated[bool, belongs_to("fsdp_enable")] = False
    """Keeps weights that are spread in main memory."""
    fsdp_cpu_ram_efficient_loading: Annotated[bool, belongs_to("fsdp_enable")] = False
    """Loads the weights in one process only, and sends them to the others."""
    fsdp_limit_all_gathers: Annotated[bool, belongs_to("fsdp_enable")] = True
    """Keeps FSDP from fetching too far ahead."""
    fsdp_activation_checkpointing: Annotated[bool, belongs_to("fsdp_enable")] = False
    """Computes blocks twice to save memory, by FSDP."""
    context_parallel_size: Annotated[int, NotYet("leave it out, and lower resolution: an image is on one card")] = 1
    """Over how many cards one image is spread."""
    context_parallel_comm_strategy: Annotated[str | None, belongs_to("context_parallel_size")] = None
    """How cards that share an image exchange what they computed."""
    find_unused_parameters: Annotated[bool | None, NoEffect("weights that a step did not use never matter")] = None
    """Looks for weights that a step did not use."""
    local_rank: Annotated[int, NoEffect("the launcher sets it")] = -1
    """The number of this process on its machine."""
