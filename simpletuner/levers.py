"""What a config could still do about memory and about unsteady training, cheapest first."""

from __future__ import annotations

from collections.abc import Mapping

from simpletuner.config import RunConfig
from simpletuner.models import memory_plans


def memory(config: RunConfig) -> tuple[str, ...]:
    """Options that save memory and are not used."""
    is_frozen = not config.model.trains_base
    return _useful(
        {
            "gradient_checkpointing: true": not config.memory.gradient_checkpointing,
            "base_model_precision: int8-quanto": is_frozen and config.precision.base_model_precision == "no_change",
            "base_model_precision: nf4-bnb": config.precision.base_model_precision == "int8-quanto",
            "a smaller train_batch_size with more gradient_accumulation_steps": config.duration.train_batch_size > 1,
            "optimizer: bnb-adamw8bit": config.optimization.optimizer in {"adamw", "torch-adamw", "bnb-adamw"},
            "a tread_config": config.routing.tread_config is None,
            "blocks_to_swap: 18": is_frozen and memory_plans.offload(config.memory) is None,
            "a smaller lora_rank": config.adapter.lora_rank > 16,
            "fused_backward_pass: true": not is_frozen and not config.optimization.fused_backward_pass,
            "model_type: lora": not is_frozen,
            "a smaller resolution": True,
        }
    )


def steadiness(config: RunConfig) -> tuple[str, ...]:
    """Options that make training steadier and are not used."""
    options = config.optimization
    return _useful(
        {
            "a lower learning_rate": True,
            "max_grad_norm: 1.0 with grad_clip_method: norm": options.grad_clip_method != "norm"
            or not 0 < options.max_grad_norm <= 1,
            "lr_warmup_steps: 100": not options.lr_warmup_steps,
            "mixed_precision: bf16 or no": config.precision.mixed_precision not in {"bf16", "no"},
            "more gradient_accumulation_steps": config.duration.gradient_accumulation_steps < 4,
            "loss_type: huber": config.objective.loss_type == "l2",
            "use_ema: true": not config.ema.use_ema,
        }
    )


def _useful(offered: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(lever for lever, helps in offered.items() if helps)
