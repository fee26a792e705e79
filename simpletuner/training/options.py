"""PROVISIONAL by the architect until the options helper writes the whole file."""
from __future__ import annotations
from typing import Annotated, Any
from simpletuner.schema import Section, TextList
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.schedules import LR_SCHEDULES


class Run(Section):
    """Run."""
    output_dir: str = "output"
    logging_dir: str = "logs"
    seed: int | None = None
    resume_from_checkpoint: str | None = "latest"
    cache_dir: str | None = None
    data_backend_config: str | None = None


class Duration(Section):
    """Duration."""
    max_train_steps: int | None = None
    num_train_epochs: float | None = None
    train_batch_size: int = 1
    gradient_accumulation_steps: int = 1


class Optimization(Section):
    """Optimization."""
    learning_rate: float = 1e-4
    lr_scheduler: Annotated[str, LR_SCHEDULES] = "constant_with_warmup"
    lr_warmup_steps: int = 0
    lr_power: float = 1.0
    lr_end: float = 0.0
    lr_scale: bool = False
    lr_scale_sqrt: bool = False
    optimizer: Annotated[str, OPTIMIZERS] = "adamw_bf16"
    optimizer_config: dict[str, Any] | None = None
    optimizer_beta1: float | None = None
    optimizer_beta2: float | None = None
    max_grad_norm: float = 1.0
    grad_clip_method: str = "norm"


class Objective(Section):
    """Objective."""
    flow_schedule_shift: float | None = 3.0
    flow_schedule_auto_shift: bool = False
    flow_sigmoid_scale: float = 1.0
    flux_guidance_mode: str = "constant"
    flux_guidance_value: float = 1.0
    flux_guidance_min: float = 0.0
    flux_guidance_max: float = 4.0
    caption_dropout_probability: float = 0.1
    tokenizer_max_length: int | None = None


class Ema(Section):
    """EMA."""


class Checkpoints(Section):
    """Checkpoints."""
    checkpoint_step_interval: int = 500
    checkpoints_total_limit: int = 5


class Validation(Section):
    """Validation."""
    validation_prompt: str | None = None
    user_prompt_library: str | None = None
    validation_negative_prompt: str = "blurry, cropped, ugly"
    validation_step_interval: int = 100
    validation_disable: bool = False
    validation_disable_unconditional: bool = False
    validation_resolution: str = "1024"
    validation_num_inference_steps: int = 20
    validation_guidance: float = 3.0
    validation_guidance_real: float = 1.0
    validation_no_cfg_until_timestep: int = 2
    validation_seed: int | None = None
    num_validation_images: int = 1
    disable_benchmark: bool = False

    def sizes(self):
        w, _, h = self.validation_resolution.partition("x")
        return ((int(w), int(h or w)),)


class Publishing(Section):
    """Publishing."""
    push_to_hub: bool = False
    hub_model_id: str | None = None
    model_card_private: bool = True
    model_card_safe_for_work: bool = False
    model_card_note: str | None = None
    modelspec_comment: str | None = None


class Tracking(Section):
    """Tracking."""
    tracker_project_name: str = "simpletuner"
    tracker_run_name: str = "simpletuner-testing"
    report_to: TextList = ()

    def trackers(self):
        return self.report_to


class Distributed(Section):
    """Distributed."""
