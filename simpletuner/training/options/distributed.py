"""Several processes or machines."""

from __future__ import annotations

from typing import Annotated, Any

from simpletuner.schema import NoEffect, NotYet, Section, belongs_to

_ONE_PROCESS = NotYet("leave it out: one process trains")


class Distributed(Section):
    """Several processes or machines."""

    num_processes: Annotated[int, _ONE_PROCESS] = 1
    """How many processes train together, usually one for each card."""
    num_machines: Annotated[int, _ONE_PROCESS] = 1
    """How many machines train together."""
    main_process_ip: Annotated[str, belongs_to("num_machines")] = "127.0.0.1"
    """The address of the first machine."""
    main_process_port: Annotated[int, belongs_to("num_machines")] = 29500
    """The port of the first machine."""
    machine_rank: Annotated[int, belongs_to("num_machines")] = 0
    """The number of this machine, from 0."""
    same_network: Annotated[bool, belongs_to("num_machines")] = True
    """Says that all machines are in one network."""
    accelerate_config: Annotated[str | None, _ONE_PROCESS] = None
    """A config file of the launcher accelerate."""
    accelerate_extra_args: Annotated[str | None, _ONE_PROCESS] = None
    """Further arguments for the launcher accelerate."""
    deepspeed_config: Annotated[Any, _ONE_PROCESS] = None
    """Spreads the optimizer and weights over cards and main memory by DeepSpeed."""
    offload_param_path: Annotated[str | None, belongs_to("deepspeed_config")] = None
    """The folder on a fast disk where DeepSpeed keeps weights."""
    fsdp_enable: Annotated[bool, _ONE_PROCESS] = False
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
    context_parallel_size: Annotated[int, _ONE_PROCESS] = 1
    """Over how many cards one image is spread."""
    context_parallel_comm_strategy: Annotated[str | None, belongs_to("context_parallel_size")] = None
    """How cards that share an image exchange what they computed."""
    find_unused_parameters: Annotated[bool | None, belongs_to("num_processes")] = None
    """Looks for weights that a step did not use."""
    local_rank: Annotated[int, NoEffect("the launcher sets it")] = -1
    """The number of this process on its machine."""
