"""What a config says about a run: how long, how fast, towards what, and what is kept of it. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from simpletuner.schema import Listed, NoEffect, NotYet, NumberList, Section, conflict, words
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.schedules import LR_SCHEDULES
from simpletuner.training.trackers import TRACKERS

_NO_EMA = NotYet("leave it out: the last weights are saved, and earlier ones in checkpoints")
_DDPM = NoEffect("it is for models that are trained by diffusion steps; FLUX is trained by flow matching")
_NO_ROLLOUT = NotYet("leave it out: training starts from noised images")
_ONE_PROCESS = NotYet("leave it out: one process trains")
_EXPERIMENT = NotYet("leave it out: it is an experiment of another program")
_NO_SCRIPTS = NotYet("leave it out: no scripts are run")


def _belongs_to(option: str) -> NoEffect:
    return NoEffect(f"it belongs to {option}, which is not served yet")


class Run(Section):
    """Where a run lives, and how it begins."""

    output_dir: Path = Path("output")
    """The folder for everything that the run makes."""
    logging_dir: Path = Path("logs")
    """The folder for files of trackers, inside output_dir unless it is absolute."""
    data_backend_config: str
    """The file that lists the data sets, usually config/multidatabackend.json."""
    cache_dir: Path | None = None
    """The folder for caches that are shared by all runs; cache unless given."""
    seed: int | None = None
    """Where all randomness comes from: the same seed gives the same run. 0, -1 and nothing choose a new one."""
    seed_for_each_device: Annotated[
        bool, NoEffect("randomness follows the number of the sample, so every device gets its own by itself")
    ] = True
    """Uses other random numbers on each device."""
    resume_from_checkpoint: str | None = "latest"
    """Where to go on: latest, the name of a checkpoint, a path, or none to start anew."""
    i_know_what_i_am_doing: Annotated[bool, NoEffect("no check can be switched off")] = False
    """Turns some errors of SimpleTuner into warnings."""
    configs_dir: Annotated[str, NoEffect("it belongs to a web interface")] = ""
    """Where SimpleTuner's web interface keeps configs."""
    merge_environment_config: Annotated[bool | None, NoEffect("it belongs to a web interface")] = None
    """How SimpleTuner's web interface joins configs."""
    disk_low_threshold: Annotated[str | None, NotYet("leave it out: a full disk ends the run with a message")] = None
    """How much space must be free on the disk, such as 10G."""
    disk_low_action: Annotated[str, _belongs_to("disk_low_threshold")] = "stop"
    """What to do when the disk is nearly full: stop, wait, or run a script."""
    disk_low_script: Annotated[str | None, _belongs_to("disk_low_threshold")] = None
    """The script to run when the disk is nearly full."""


class Duration(Section):
    """How long a run is, and how many images make a step."""

    max_train_steps: int | None = Field(default=None, ge=0)
    """How many steps to train; 0 leaves it to num_train_epochs."""
    num_train_epochs: float | None = Field(default=None, ge=0)
    """How many times everything is shown, such as 10 or 0.5; 0 leaves it to max_train_steps. Without either, once."""
    strict_epoch_limit: Annotated[bool, NoEffect("a run ends at the step or epoch it is given")] = False
    """Stops at num_train_epochs even if steps remain."""
    train_batch_size: int = Field(default=1, ge=1)
    """How many images are trained on at once: more are steadier and need more memory."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """How many batches make one step: as if the batch were so many times larger, without its memory."""

    @model_validator(mode="after")
    def _one_measure(self) -> Duration:
        if self.max_train_steps and self.num_train_epochs:
            given = f"{self.max_train_steps} steps and {self.num_train_epochs:g} epochs"
            raise conflict(_LENGTH, f"cannot both be set, got {given}; set one of them to 0")
        if self.num_train_epochs == 0 and not self.max_train_steps:
            raise conflict(_LENGTH, "are 0 or not set, so there is nothing to train; set one of them to more than 0")
        return self


_LENGTH = "max_train_steps, num_train_epochs"

CLIP_METHODS = words(
    "gradient clipping",
    {
        "norm": "Shortens the gradient as a whole to max_grad_norm and keeps its direction.",
        "value": "Limits each number of the gradient to max_grad_norm by itself.",
    },
)


def _settings(value: Any) -> Any:
    """Accept an object, JSON text of one, or ``key=value,key=value``."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from error
    return dict(_pair(part) for part in value.split(",") if part.strip())


def _pair(text: str) -> tuple[str, Any]:
    name, assigned, value = text.partition("=")
    if not assigned:
        raise ValueError(f"'{text.strip()}' is not of the form name=value")
    try:
        return name.strip(), json.loads(value.strip().lower())
    except json.JSONDecodeError:
        return name.strip(), value.strip()


class Optimization(Section):
    """How the trained weights are updated."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """How far each step goes; the peak, reached after the warm-up."""
    lr_scheduler: Annotated[str, LR_SCHEDULES] = "constant_with_warmup"
    """How the learning rate moves over the run."""
    lr_warmup_steps: int = Field(default=0, ge=0)
    """The steps over which the learning rate rises from zero to its peak."""
    lr_num_cycles: Annotated[int, NoEffect("no served schedule has cycles")] = 1
    """How often a schedule with cycles starts again."""
    lr_power: float = Field(default=0.8, gt=0)
    """How the polynomial schedule bends: 1 is a straight line."""
    lr_end: float = Field(default=4e-7, ge=0)
    """Where cosine and polynomial schedules end."""
    lr_scale: bool = False
    """Multiplies the learning rate by the number of images in a step."""
    lr_scale_sqrt: bool = False
    """With lr_scale, multiplies by the square root of that number."""
    optimizer: Annotated[str, OPTIMIZERS] = "adamw_bf16"
    """Which optimizer updates the trained weights."""
    optimizer_config: Annotated[Mapping[str, Any] | None, BeforeValidator(_settings)] = None
    """Settings of the optimizer: an object, or text such as weight_decay=0.01,eps=1e-8."""
    optimizer_beta1: float | None = Field(default=None, ge=0, lt=1)
    """The first beta of the optimizer; give optimizer_beta2 too."""
    optimizer_beta2: float | None = Field(default=None, ge=0, lt=1)
    """The second beta of the optimizer; give optimizer_beta1 too."""
    adam_beta1: Annotated[float, NoEffect("use optimizer_beta1")] = 0.9
    """The first beta of Adam, in old versions of SimpleTuner."""
    adam_beta2: Annotated[float, NoEffect("use optimizer_beta2")] = 0.999
    """The second beta of Adam, in old versions of SimpleTuner."""
    adam_weight_decay: Annotated[float, NoEffect("use optimizer_config weight_decay=...")] = 0.01
    """The weight decay of Adam, in old versions of SimpleTuner."""
    adam_epsilon: Annotated[float, NoEffect("use optimizer_config eps=...")] = 1e-8
    """The smallest divisor of Adam, in old versions of SimpleTuner."""
    prodigy_steps: Annotated[int | None, _belongs_to("optimizer prodigy")] = None
    """The step after which Prodigy does not change the learning rate any more."""
    max_grad_norm: float = Field(default=2.0, ge=0)
    """How long a gradient may be; 0 does not limit it."""
    grad_clip_method: Annotated[str, CLIP_METHODS] = "norm"
    """How gradients that are too long are shortened."""
    gradient_precision: Annotated[
        str | None,
        words("gradient precision", {"unmodified": "As the weights."}, later={"fp32": "leave it out: as the weights"}),
    ] = None
    """The precision in which gradients are applied."""
    optimizer_release_gradients: Annotated[bool, NotYet("leave it out: with a LoRA, gradients are small")] = False
    """Applies each gradient at once and frees it."""
    optimizer_cpu_offload_method: Annotated[
        str | None, words("offload", {"none": "Keeps the optimizer on the card."})
    ] = None
    """Where the optimizer keeps what it remembers of each weight."""
    optimizer_offload_gradients: Annotated[bool, NotYet("leave it out: with a LoRA, gradients are small")] = False
    """Keeps gradients in main memory until they are applied."""
    fuse_optimizer: Annotated[bool, NoEffect("the fused form is always used where there is one")] = False
    """Uses the fused form of the optimizer."""
    set_grads_to_none: Annotated[bool, NoEffect("gradients are always freed after a step")] = False
    """Frees gradients after a step."""
    text_encoder_limit: Annotated[int, NoEffect("text encoders are not trained")] = 100
    """When the training of text encoders ended, in old versions of SimpleTuner."""

    @model_validator(mode="after")
    def _fits_together(self) -> Optimization:
        if (self.optimizer_beta1 is None) != (self.optimizer_beta2 is None):
            raise conflict("optimizer_beta1, optimizer_beta2", "go together; give both or neither")
        if self.lr_scheduler in {"cosine", "polynomial"} and self.learning_rate <= self.lr_end:
            rates = f"{self.learning_rate:g} is not above {self.lr_end:g}"
            raise conflict(
                "learning_rate, lr_end", f"{rates}, where the {self.lr_scheduler} schedule ends; lower lr_end"
            )
        return self


GUIDANCE_MODES = words(
    "guidance mode",
    {
        "constant": "Every sample is trained with flux_guidance_value.",
        "random-range": "Each sample is trained with a value between flux_guidance_min and flux_guidance_max.",
    },
)
LOSSES = words(
    "loss",
    {"l2": "The squared difference."},
    later=dict.fromkeys(("huber", "smooth_l1", "l1"), "use l2"),
)


class Objective(Section):
    """What is trained towards."""

    flow_schedule_shift: float | None = Field(default=3.0, ge=0)
    """Moves training towards noisier images, for composition; 0 or 1 does not move it."""
    flow_schedule_auto_shift: bool = False
    """Chooses the shift by the size of the image, as FLUX.1 was trained; it wins over flow_schedule_shift."""
    flow_sigmoid_scale: float = Field(default=1.0, gt=0)
    """How widely noise levels spread around the middle."""
    flow_use_uniform_schedule: Annotated[bool, NotYet("use flow_sigmoid_scale to spread noise levels more")] = False
    """Draws all noise levels equally often."""
    flow_use_beta_schedule: Annotated[bool, NotYet("use flow_sigmoid_scale to spread noise levels more")] = False
    """Draws noise levels from a beta distribution."""
    flow_beta_schedule_alpha: Annotated[float, _belongs_to("flow_use_beta_schedule")] = 2.0
    """How strongly the beta distribution favours noisy images."""
    flow_beta_schedule_beta: Annotated[float, _belongs_to("flow_use_beta_schedule")] = 2.0
    """How strongly the beta distribution favours clean images."""
    flow_cubic_schedule_weights: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Draws noise levels by a smooth curve through these weights."""
    flow_custom_timesteps: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Trains only at these noise levels."""
    flow_timesteps_mode: Annotated[str, _belongs_to("flow_custom_timesteps")] = "fixed-list"
    """Draws the noise levels in flow_custom_timesteps at random or in turn."""
    flux_fast_schedule: Annotated[bool, NotYet("leave it out: it is for schnell")] = False
    """Trains only at the noise levels that models with four steps use."""
    flux_guidance_mode: Annotated[str, GUIDANCE_MODES] = "constant"
    """Which guidance value the model is told in training."""
    flux_guidance_value: float = 1.0
    """The constant guidance value; 1.0 suits LoRA training on dev."""
    flux_guidance_min: float = 0.0
    """The lowest random guidance value."""
    flux_guidance_max: float = 4.0
    """The highest random guidance value."""
    flux_attention_masked_training: Annotated[bool, NotYet("leave it out: padding takes part, as in FLUX.1")] = False
    """Hides the padding of prompts from the model."""
    t5_padding: Annotated[
        str, words("padding", {"unmodified": "Padding stays as T5 encodes it."}, later={"zero": "use unmodified"})
    ] = "unmodified"
    """What the T5 encoder's output holds behind the end of a prompt."""
    tokenizer_max_length: int | None = Field(default=None, ge=1, le=512)
    """How many tokens of a caption count; 512 for dev unless given."""
    loss_type: Annotated[str, LOSSES] = "l2"
    """How the difference between what the model says and what it should say is measured."""
    huber_schedule: Annotated[str, _belongs_to("loss_type huber")] = "snr"
    """How huber_c changes with the noise level."""
    huber_c: Annotated[float, _belongs_to("loss_type huber")] = 0.1
    """The difference from which on the Huber loss grows in a straight line."""
    caption_dropout_probability: float = Field(default=0.1, ge=0, le=1)
    """The share of samples that are trained without their caption, which makes real guidance work better."""
    masked_loss_probability: Annotated[float, NoEffect("masks are not served yet")] = 1.0
    """How often a mask is used."""
    input_perturbation: Annotated[float, NotYet("leave it out: lora_dropout helps against overfitting too")] = 0.0
    """Adds more noise to the picture than the model is asked to find."""
    input_perturbation_steps: Annotated[int, _belongs_to("input_perturbation")] = 0
    """Over how many steps this additional noise fades away."""
    offset_noise: Annotated[bool, NotYet("leave it out: FLUX draws dark and bright pictures without it")] = False
    """Adds the same number to all noise of a channel, for darker and brighter pictures."""
    noise_offset: Annotated[float, _belongs_to("offset_noise")] = 0.1
    """How large the number of offset_noise is."""
    noise_offset_probability: Annotated[float, _belongs_to("offset_noise")] = 0.25
    """The share of samples with offset_noise."""
    prediction_type: Annotated[str | None, _DDPM] = None
    """Whether the model predicts noise, the picture or a velocity."""
    snr_gamma: Annotated[float | None, _DDPM] = None
    """Limits the weight of nearly clean pictures in the loss."""
    snr_weight: Annotated[float, _DDPM] = 1.0
    """Multiplies the weights of min-SNR."""
    use_soft_min_snr: Annotated[bool, _DDPM] = False
    """Weights noise levels by a smoother formula than min-SNR."""
    soft_min_snr_sigma_data: Annotated[float | None, _DDPM] = None
    """The spread of the data in the formula of soft min-SNR."""
    timestep_bias_strategy: Annotated[str | None, _DDPM] = None
    """Trains some diffusion steps more often: earlier, later or a range."""
    timestep_bias_multiplier: Annotated[float, _DDPM] = 1.0
    """How much more often the favoured diffusion steps are trained."""
    timestep_bias_begin: Annotated[int, _DDPM] = 0
    """The first of the favoured diffusion steps."""
    timestep_bias_end: Annotated[int, _DDPM] = 1000
    """The last of the favoured diffusion steps."""
    timestep_bias_portion: Annotated[float, _DDPM] = 0.25
    """The share of diffusion steps that is favoured."""
    disable_segmented_timestep_sampling: Annotated[bool, _DDPM] = False
    """Draws the diffusion steps of a batch without spreading them."""
    training_scheduler_timestep_spacing: Annotated[str, _DDPM] = "trailing"
    """How diffusion steps are spaced in training."""
    inference_scheduler_timestep_spacing: Annotated[str, _DDPM] = "trailing"
    """How diffusion steps are spaced in validation."""
    scheduled_sampling_max_step_offset: Annotated[int, _NO_ROLLOUT] = 0
    """Trains on pictures that the model itself drew on, up to so many steps; 0 does not."""
    scheduled_sampling_probability: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 0.0
    """The share of samples that the model itself draws on."""
    scheduled_sampling_prob_start: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 0.0
    """The share of such samples at the beginning."""
    scheduled_sampling_prob_end: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 0.5
    """The share of such samples at the end."""
    scheduled_sampling_ramp_steps: Annotated[int, _belongs_to("scheduled_sampling_max_step_offset")] = 0
    """Over how many steps that share grows."""
    scheduled_sampling_start_step: Annotated[int, _belongs_to("scheduled_sampling_max_step_offset")] = 0
    """The step from which on there are such samples."""
    scheduled_sampling_ramp_shape: Annotated[str, _belongs_to("scheduled_sampling_max_step_offset")] = "linear"
    """Whether that share grows in a straight line or along a cosine."""
    scheduled_sampling_strategy: Annotated[str, _belongs_to("scheduled_sampling_max_step_offset")] = "uniform"
    """Whether few or many steps are preferred."""
    scheduled_sampling_sampler: Annotated[str, _belongs_to("scheduled_sampling_max_step_offset")] = "unipc"
    """The solver with which the model draws on."""
    scheduled_sampling_order: Annotated[int, _belongs_to("scheduled_sampling_max_step_offset")] = 2
    """The order of that solver."""
    scheduled_sampling_reflexflow: Annotated[bool | None, _NO_ROLLOUT] = None
    """Adds a loss against drift to such samples."""
    scheduled_sampling_reflexflow_alpha: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 1.0
    """How strongly samples with much drift count."""
    scheduled_sampling_reflexflow_beta1: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 10.0
    """The weight of the loss against drift."""
    scheduled_sampling_reflexflow_beta2: Annotated[float, _belongs_to("scheduled_sampling_max_step_offset")] = 1.0
    """The weight of the usual loss beside it."""
    mixflow_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains on a path that stays near noise for longer."""
    mixflow_gamma: Annotated[float, _belongs_to("mixflow_enabled")] = 0.8
    """How much longer that path stays near noise."""
    internal_guidance_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains an additional output in the middle of the model, to guide by."""
    xm_enabled: Annotated[bool, _EXPERIMENT] = False
    """Draws several noises for a picture and trains on the best."""
    crepa_enabled: Annotated[bool, _EXPERIMENT] = False
    """Pulls what the model computes towards what an image encoder sees."""
    layersync_enabled: Annotated[bool, _EXPERIMENT] = False
    """Pulls early blocks of the model towards late ones."""
    nextlat_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains the model to foresee what it computes next."""
    twinflow_enabled: Annotated[bool, _EXPERIMENT] = False
    """Turns the model into one that draws in a few steps, by TwinFlow."""
    distillation_method: Annotated[str | None, _EXPERIMENT] = None
    """Turns the model into one that draws in fewer steps, by the method named."""
    distillation_config: Annotated[Mapping[str, Any] | str | None, _belongs_to("distillation_method")] = None
    """How such a method is set."""

    @model_validator(mode="after")
    def _range(self) -> Objective:
        if self.flux_guidance_min > self.flux_guidance_max:
            given = f"{self.flux_guidance_min:g} is above {self.flux_guidance_max:g}"
            raise conflict("flux_guidance_min, flux_guidance_max", f"{given}; swap them")
        return self


class Ema(Section):
    """Averages of the trained weights."""

    use_ema: Annotated[bool, _NO_EMA] = False
    """Keeps a running average of the trained weights."""
    ema_decay: Annotated[float, _belongs_to("use_ema")] = 0.995
    """How slowly the average follows the weights: nearer to 1 is slower."""
    ema_update_interval: Annotated[int, _belongs_to("use_ema")] = 1
    """The number of steps after which the average follows the weights again."""
    ema_device: Annotated[str, _belongs_to("use_ema")] = "cpu"
    """Whether the average is kept in main memory or on the card."""
    ema_cpu_only: Annotated[bool, _belongs_to("use_ema")] = False
    """Updates the average in main memory, too."""
    ema_foreach_disable: Annotated[bool, _belongs_to("use_ema")] = False
    """Updates the average weight by weight, with less memory."""
    ema_warmup_steps: Annotated[int, _belongs_to("use_ema")] = 0
    """The step from which on the average is kept."""
    ema_validation: Annotated[str, _belongs_to("use_ema")] = "comparison"
    """Whether validation draws with the average, with the last weights, or with both."""


class Checkpoints(Section):
    """What is kept so that a run can go on."""

    checkpoint_step_interval: int = Field(default=500, ge=0)
    """A checkpoint is kept every so many steps, and always at the end; 0 keeps only that at the end."""
    checkpoint_epoch_interval: Annotated[int | None, NotYet("use checkpoint_step_interval")] = None
    """A checkpoint is kept every so many epochs."""
    checkpoints_total_limit: int = Field(default=5, ge=0)
    """How many checkpoints are kept; the oldest go first. 0 keeps all."""
    checkpointing_rolling_steps: Annotated[int, NotYet("use checkpoint_step_interval")] = 0
    """Keeps further checkpoints, which are soon replaced, every so many steps."""
    checkpoints_rolling_total_limit: Annotated[int, _belongs_to("checkpointing_rolling_steps")] = 1
    """How many of the checkpoints that are soon replaced are kept."""
    checkpointing_use_tempdir: Annotated[bool, NoEffect("checkpoints always appear whole")] = False
    """Writes a checkpoint under another name until it is whole."""
    delete_invalid_checkpoints: Annotated[bool, NoEffect("damaged checkpoints are passed over, not deleted")] = False
    """Deletes checkpoints that are damaged."""
    post_checkpoint_script: Annotated[str | None, _NO_SCRIPTS] = None
    """A command to run after each checkpoint."""
    post_upload_script: Annotated[str | None, _NO_SCRIPTS] = None
    """A command to run after each upload."""


IMAGE_FORMATS = words("image format", {"png": "Exact."}, later={"webp": "use png", "jpeg": "use png", "jpg": "use png"})


def _library_flag(value: Any) -> Any:
    """The built-in library is asked for by true or a name."""
    return bool(value) and str(value).lower() not in {"false", "0", "no", "none"}


class Validation(Section):
    """Pictures that show how training goes."""

    validation_prompt: str | None = None
    """One prompt to draw."""
    user_prompt_library: str | None = None
    """A JSON file with prompts to draw, each with a name: an object of names and prompts."""
    validation_prompt_library: Annotated[
        bool,
        BeforeValidator(_library_flag),
        NotYet("write your prompts into a file and name it in user_prompt_library"),
    ] = False
    """Draws a collection of prompts that come along."""
    validation_negative_prompt: str = "blurry, cropped, ugly"
    """What should not be in the picture; it acts only with validation_guidance_real above 1."""
    validation_step_interval: int = Field(default=100, ge=0)
    """Pictures are drawn every so many steps, and always at the end; 0 draws only those at the end."""
    validation_epoch_interval: Annotated[int | None, NotYet("use validation_step_interval")] = None
    """Pictures are drawn every so many epochs."""
    validate_after_step: Annotated[int | None, NotYet("use validation_step_interval")] = None
    """No pictures are drawn before this step."""
    validate_after_epoch: Annotated[int | None, NotYet("use validation_step_interval")] = None
    """No pictures are drawn before this epoch."""
    validation_on_startup: Annotated[
        bool, NoEffect("what the base model draws is always drawn at the start, unless disable_benchmark is set")
    ] = False
    """Draws pictures before training."""
    validation_disable: bool = False
    """Draws no pictures at all."""
    validation_disable_unconditional: bool = False
    """Leaves out the picture of the empty prompt."""
    validation_resolution: str = "1024"
    """The size of the pictures: 1024, or 1024x768, or several with commas; below 128 it means megapixels."""
    validation_num_inference_steps: int = Field(default=20, ge=1)
    """How many steps a picture takes."""
    validation_guidance: float = 3.0
    """The guidance value that the model is told."""
    validation_guidance_real: float = Field(default=1.0, ge=0)
    """Real guidance by a second prediction for the negative prompt; 1 leaves it out, above 1 takes twice the time."""
    validation_no_cfg_until_timestep: int = Field(default=2, ge=0)
    """The step from which real guidance acts."""
    validation_guidance_rescale: Annotated[float, NoEffect("FLUX does not rescale guidance")] = 0.0
    """Takes back the contrast that real guidance adds."""
    validation_guidance_skip_layers: Annotated[str | None, NotYet("use validation_guidance_real")] = None
    """Guides pictures away from what the model draws without some of its layers."""
    validation_guidance_skip_layers_start: Annotated[float | None, _belongs_to("validation_guidance_skip_layers")] = (
        None
    )
    """The share of the steps after which that begins."""
    validation_guidance_skip_layers_stop: Annotated[float | None, _belongs_to("validation_guidance_skip_layers")] = None
    """The share of the steps after which that ends."""
    validation_guidance_skip_scale: Annotated[float | None, _belongs_to("validation_guidance_skip_layers")] = None
    """How strongly pictures are guided in that way."""
    validation_noise_scheduler: Annotated[
        str | None,
        words(
            "sampler",
            {"euler": "Straight steps, as FLUX.1 is used."},
            later=dict.fromkeys(("ddim", "ddpm", "euler-a", "unipc", "dpm++", "perflow"), "use euler"),
        ),
    ] = None
    """How the way from noise to picture is walked."""
    validation_seed: int | None = None
    """The noise that pictures start from; that of the run unless given."""
    validation_seed_source: Annotated[
        str, NoEffect("the noise is drawn on the processor, so that it is the same on every card")
    ] = "cpu"
    """Whether the noise is drawn on the processor or on the card."""
    validation_randomize: Annotated[bool, NotYet("leave it out: pictures can only be compared from the same noise")] = (
        False
    )
    """Starts each picture from other noise."""
    validation_torch_compile: Annotated[bool, NotYet("leave it out: validation runs without torch.compile")] = False
    """Compiles the model before pictures are drawn."""
    num_validation_images: int = Field(default=1, ge=1)
    """How many pictures are drawn for each prompt."""
    disable_benchmark: bool = False
    """Leaves out the pictures of the base model, which each later one is shown beside."""
    validation_image_format: Annotated[str, IMAGE_FORMATS] = "png"
    """The kind of file that pictures are saved as."""
    validation_image_quality: Annotated[int, NoEffect("PNG is exact")] = 90
    """How good the files are, for kinds that lose something."""
    validation_multigpu: Annotated[str, NoEffect("one process draws")] = "batch-parallel"
    """Whether several cards share the pictures."""
    validation_method: Annotated[
        str,
        words("method", {"simpletuner-local": "Draws by itself."}, later={"external-script": "use simpletuner-local"}),
    ] = "simpletuner-local"
    """Whether pictures are drawn by this program or by a script."""
    validation_external_script: Annotated[str | None, _belongs_to("validation_method external-script")] = None
    """The script that draws the pictures."""
    validation_external_background: Annotated[bool, _belongs_to("validation_method external-script")] = False
    """Goes on with training while the script draws."""
    validation_using_datasets: Annotated[bool | None, NotYet("use validation_prompt")] = None
    """Starts pictures from training images instead of noise."""
    validation_input: Annotated[Any, NotYet("use validation_prompt")] = None
    """Starts pictures from these images."""
    validation_stitch_input_location: Annotated[str, _belongs_to("validation_input")] = "left"
    """The side on which the image is shown that a picture started from."""
    validation_preview: Annotated[bool, NotYet("open the pictures in the output folder")] = False
    """Sends pictures to a webhook while they are drawn."""
    validation_preview_steps: Annotated[int, _belongs_to("validation_preview")] = 1
    """The number of steps between two such pictures."""
    validation_adapter_path: Annotated[
        str | None, NotYet("leave it out: pictures are drawn with the adapter that is trained")
    ] = None
    """Another adapter that is put on for validation."""
    validation_adapter_name: Annotated[str | None, _belongs_to("validation_adapter_path")] = None
    """The name of that adapter."""
    validation_adapter_strength: Annotated[float, _belongs_to("validation_adapter_path")] = 1.0
    """How strongly that adapter acts."""
    validation_adapter_mode: Annotated[str, _belongs_to("validation_adapter_path")] = "adapter_only"
    """Whether pictures are drawn with that adapter, without it, or both."""
    validation_adapter_config: Annotated[
        Any, NotYet("leave it out: pictures are drawn with the adapter that is trained")
    ] = None
    """Several adapters that are put on for validation, one after the other."""
    validation_lycoris_strength: Annotated[float, _belongs_to("lora_type lycoris")] = 1.0
    """How strongly a LyCORIS adapter acts in validation."""
    num_eval_images: Annotated[int, NoEffect("there are no eval data sets yet")] = 4
    """How many batches of an eval data set the loss is measured on."""
    eval_steps_interval: Annotated[int | None, NotYet("leave it out: judge by the pictures")] = None
    """Measures the loss on eval data sets every so many steps."""
    eval_epoch_interval: Annotated[float | None, NotYet("leave it out: judge by the pictures")] = None
    """Measures the loss on eval data sets every so many epochs."""
    eval_timesteps: Annotated[int, _belongs_to("eval_steps_interval")] = 28
    """At how many noise levels the loss on eval data sets is measured."""
    eval_dataset_pooling: Annotated[bool, _belongs_to("eval_steps_interval")] = False
    """Gives one number for all eval data sets together."""
    eval_dataset_id: Annotated[str | None, NotYet("leave it out: judge by the pictures")] = None
    """The only eval data set to use."""
    eval_loss_disable: Annotated[bool, NoEffect("no loss is measured on eval data sets yet")] = False
    """Does not measure the loss on eval data sets."""
    evaluation_type: Annotated[
        str, words("evaluation", {"none": "Pictures are not scored."}, later={"clip": "judge by the pictures"})
    ] = "none"
    """How well pictures fit their prompts, as a number."""
    pretrained_evaluation_model_name_or_path: Annotated[str, _belongs_to("evaluation_type clip")] = (
        "openai/clip-vit-large-patch14-336"
    )
    """The model that measures how well pictures fit their prompts."""

    @field_validator("validation_prompt")
    @classmethod
    def _no_prompt(cls, value: str | None) -> str | None:
        return None if value is None or value.lower() == "none" else value

    @field_validator("validation_resolution", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for part in text.split(","):
            _size(part)
        return text

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of the pictures, in multiples of 16 pixels."""
        return tuple(_size(part) for part in self.validation_resolution.split(","))


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    try:
        numbers = float(width), float(height if cross else width)
    except ValueError as error:
        raise ValueError(f"'{text}' is not a size; write 1024 or 1024x768") from error
    if not all(0 < number < 20_000 for number in numbers):
        raise ValueError(f"'{text}' is not a size; write 1024 or 1024x768")
    if not cross and _MOST_MEGAPIXELS < numbers[0] < 128:
        raise ValueError(f"'{text}' would be megapixels; for an edge in pixels write {text}x{text}")
    if not cross and numbers[0] < 128:
        numbers = (math.sqrt(numbers[0] * 1e6),) * 2
    return max(16, round(numbers[0] / 16) * 16), max(16, round(numbers[1] / 16) * 16)


_MOST_MEGAPIXELS = 20


class Publishing(Section):
    """What is uploaded."""

    push_to_hub: bool = False
    """Uploads the result to the Hugging Face Hub."""
    push_checkpoints_to_hub: Annotated[bool, NotYet("use push_to_hub, which uploads the result")] = False
    """Uploads every checkpoint."""
    push_to_hub_background: Annotated[bool, NoEffect("the upload comes after training")] = False
    """Uploads while training goes on."""
    hub_model_id: str | None = None
    """The repository on the Hub, such as you/my-lora; tracker_project_name unless given."""
    model_card_private: bool = True
    """Makes the repository private."""
    model_card_safe_for_work: bool = False
    """Says on the model card that the model is safe for work."""
    model_card_note: str | None = None
    """A text of your own for the model card."""
    modelspec_comment: str | None = None
    """A comment that is kept inside the adapter file."""
    publishing_config: Annotated[Any, NotYet("use push_to_hub")] = None
    """Uploads to storage services other than the Hub."""


NONE = "none"
REPORTS = words(
    "tracker",
    {
        NONE: "No tracker; progress.jsonl is always written.",
        "all": "Every tracker that is served.",
        **{name: TRACKERS.summary(name) for name in TRACKERS},
    },
    later=TRACKERS.later,
)


class Tracking(Section):
    """Who is told how training goes."""

    report_to: Annotated[tuple[Annotated[str, REPORTS], ...], Listed] = (NONE,)
    """Trackers to report to: tensorboard, wandb, both with a comma, all, or none."""
    tracker_project_name: str = "simpletuner"
    """The project in the tracker."""
    tracker_run_name: str = "simpletuner-testing"
    """The name of the run in the tracker, and the title of the model."""
    tracker_image_layout: Annotated[str, NoEffect("images are shown as a gallery")] = "gallery"
    """How pictures are shown in the tracker."""
    custom_tracker: Annotated[str | None, NotYet("use tensorboard or wandb")] = None
    """A tracker of your own."""
    webhook_config: Annotated[Any, NotYet("follow progress.jsonl in the output folder")] = None
    """Sends messages about the run to other services."""
    webhook_reporting_interval: Annotated[int | None, _belongs_to("webhook_config")] = None
    """The number of seconds between two such messages."""

    def trackers(self) -> list[str]:
        """The trackers to open."""
        return [name for name in TRACKERS if name in self.report_to or "all" in self.report_to]


class Distributed(Section):
    """Several processes or machines."""

    num_processes: Annotated[int, _ONE_PROCESS] = 1
    """How many processes train together, usually one for each card."""
    num_machines: Annotated[int, _ONE_PROCESS] = 1
    """How many machines train together."""
    main_process_ip: Annotated[str, _belongs_to("num_machines")] = "127.0.0.1"
    """The address of the first machine."""
    main_process_port: Annotated[int, _belongs_to("num_machines")] = 29500
    """The port of the first machine."""
    machine_rank: Annotated[int, _belongs_to("num_machines")] = 0
    """The number of this machine, from 0."""
    same_network: Annotated[bool, _belongs_to("num_machines")] = True
    """Says that all machines are in one network."""
    accelerate_config: Annotated[str | None, _ONE_PROCESS] = None
    """A config file of the launcher accelerate."""
    accelerate_extra_args: Annotated[str | None, _ONE_PROCESS] = None
    """Further arguments for the launcher accelerate."""
    deepspeed_config: Annotated[Any, _ONE_PROCESS] = None
    """Spreads the optimizer and weights over cards and main memory by DeepSpeed."""
    offload_param_path: Annotated[str | None, _belongs_to("deepspeed_config")] = None
    """The folder on a fast disk where DeepSpeed keeps weights."""
    fsdp_enable: Annotated[bool, _ONE_PROCESS] = False
    """Spreads the weights over several cards by FSDP."""
    fsdp_version: Annotated[int, _belongs_to("fsdp_enable")] = 2
    """The version of FSDP."""
    fsdp_reshard_after_forward: Annotated[bool, _belongs_to("fsdp_enable")] = True
    """Spreads weights again as soon as a block has used them."""
    fsdp_state_dict_type: Annotated[str | None, _belongs_to("fsdp_enable")] = None
    """Whether checkpoints are saved whole or in parts."""
    fsdp_auto_wrap_policy: Annotated[str | None, _belongs_to("fsdp_enable")] = None
    """By what rule FSDP divides the model."""
    fsdp_transformer_layer_cls_to_wrap: Annotated[str | None, _belongs_to("fsdp_enable")] = None
    """The names of the classes at which FSDP divides the model."""
    fsdp_cpu_offload: Annotated[bool, _belongs_to("fsdp_enable")] = False
    """Keeps weights that are spread in main memory."""
    fsdp_cpu_ram_efficient_loading: Annotated[bool, _belongs_to("fsdp_enable")] = False
    """Loads the weights in one process only, and sends them to the others."""
    fsdp_limit_all_gathers: Annotated[bool, _belongs_to("fsdp_enable")] = True
    """Keeps FSDP from fetching too far ahead."""
    fsdp_activation_checkpointing: Annotated[bool, _belongs_to("fsdp_enable")] = False
    """Computes blocks twice to save memory, by FSDP."""
    context_parallel_size: Annotated[int, _ONE_PROCESS] = 1
    """Over how many cards one image is spread."""
    context_parallel_comm_strategy: Annotated[str | None, _belongs_to("context_parallel_size")] = None
    """How cards that share an image exchange what they computed."""
    find_unused_parameters: Annotated[bool | None, _belongs_to("num_processes")] = None
    """Looks for weights that a step did not use."""
    local_rank: Annotated[int, NoEffect("the launcher sets it")] = -1
    """The number of this process on its machine."""
