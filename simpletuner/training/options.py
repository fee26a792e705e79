"""What a config says about a run: how long, how fast, towards what, and what is kept of it. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from simpletuner.schema import NoEffect, NotYet, NumberList, Section, TextList, words
from simpletuner.training.optimizers import OPTIMIZERS
from simpletuner.training.schedules import LR_SCHEDULES
from simpletuner.training.trackers import TRACKERS

_SUB_OPTION = NoEffect("it belongs to an option that is not served yet")
_NO_EMA = NotYet("leave it out: the last weights are saved, and earlier ones in checkpoints")
_DDPM = NoEffect("it is for models that are trained by diffusion steps; FLUX is trained by flow matching")
_NO_ROLLOUT = NotYet("leave it out: training starts from noised images")
_ONE_PROCESS = NotYet("one process trains; leave it out")
_EXPERIMENT = NotYet("leave it out: it is an experiment of another program")
_NO_SCRIPTS = NotYet("leave it out: no scripts are run")


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
    """Turns some errors into warnings."""
    configs_dir: Annotated[str, NoEffect("it belongs to a web interface")] = ""
    """Known from SimpleTuner's web interface."""
    merge_environment_config: Annotated[bool | None, NoEffect("it belongs to a web interface")] = None
    """Known from SimpleTuner's web interface."""
    disk_low_threshold: Annotated[str | None, NotYet("leave it out: a full disk ends the run with a message")] = None
    """How much space must be free."""
    disk_low_action: Annotated[str, _SUB_OPTION] = "stop"
    """What to do when it is not."""
    disk_low_script: Annotated[str | None, _SUB_OPTION] = None
    """The script to run when it is not."""


class Duration(Section):
    """How long a run is, and how many images make a step."""

    max_train_steps: int | None = Field(default=None, ge=0)
    """How many steps to train; 0 leaves it to num_train_epochs."""
    num_train_epochs: float | None = Field(default=None, ge=0)
    """How many times everything is shown; 0 leaves it to max_train_steps. Without either, once."""
    strict_epoch_limit: Annotated[bool, NoEffect("a run ends at the step or epoch it is given")] = False
    """Stops at num_train_epochs even if steps remain."""
    train_batch_size: int = Field(default=1, ge=1)
    """How many images are trained on at once: more are steadier and need more memory."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """How many batches make one step: as if the batch were so many times larger, without its memory."""

    @model_validator(mode="after")
    def _one_measure(self) -> Duration:
        if self.max_train_steps and self.num_train_epochs:
            raise ValueError(
                f"max_train_steps {self.max_train_steps} and num_train_epochs {self.num_train_epochs:g} cannot both be "
                f"set; set one of them to 0"
            )
        if self.max_train_steps == 0 and not self.num_train_epochs:
            raise ValueError("max_train_steps and num_train_epochs are both 0; set one of them")
        return self


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
    """Known from old versions of SimpleTuner."""
    adam_beta2: Annotated[float, NoEffect("use optimizer_beta2")] = 0.999
    """Known from old versions of SimpleTuner."""
    adam_weight_decay: Annotated[float, NoEffect("use optimizer_config weight_decay=...")] = 0.01
    """Known from old versions of SimpleTuner."""
    adam_epsilon: Annotated[float, NoEffect("use optimizer_config eps=...")] = 1e-8
    """Known from old versions of SimpleTuner."""
    prodigy_steps: Annotated[int | None, _SUB_OPTION] = None
    """When Prodigy stops adapting."""
    max_grad_norm: float = Field(default=2.0, ge=0)
    """How long a gradient may be; 0 does not limit it."""
    grad_clip_method: Annotated[str, CLIP_METHODS] = "norm"
    """How gradients that are too long are shortened."""
    gradient_precision: Annotated[
        str | None,
        words("gradient precision", {"unmodified": "As the weights."}, later={"fp32": "leave it out: as the weights"}),
    ] = None
    """The precision of gradients."""
    optimizer_release_gradients: Annotated[bool, NotYet("leave it out")] = False
    """Applies each gradient at once and frees it."""
    optimizer_cpu_offload_method: Annotated[
        str | None, words("offload", {"none": "Keeps the optimizer on the card."})
    ] = None
    """Keeps the optimizer in main memory."""
    optimizer_offload_gradients: Annotated[bool, NotYet("leave it out")] = False
    """Keeps gradients in main memory."""
    fuse_optimizer: Annotated[bool, NoEffect("the fused form is always used where there is one")] = False
    """Uses the fused form of the optimizer."""
    set_grads_to_none: Annotated[bool, NoEffect("gradients are always freed after a step")] = False
    """Frees gradients after a step."""
    text_encoder_limit: Annotated[int, NoEffect("text encoders are not trained")] = 100
    """Known from old versions of SimpleTuner."""

    @model_validator(mode="after")
    def _fits_together(self) -> Optimization:
        if (self.optimizer_beta1 is None) != (self.optimizer_beta2 is None):
            raise ValueError("optimizer_beta1 and optimizer_beta2 go together; give both or neither")
        if self.lr_scheduler in {"cosine", "polynomial"} and self.learning_rate <= self.lr_end:
            raise ValueError(
                f"learning_rate {self.learning_rate:g} is not above lr_end {self.lr_end:g}, where the "
                f"{self.lr_scheduler} schedule ends; lower lr_end"
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
    flow_beta_schedule_alpha: Annotated[float, _SUB_OPTION] = 2.0
    """The first parameter of the beta distribution."""
    flow_beta_schedule_beta: Annotated[float, _SUB_OPTION] = 2.0
    """The second parameter of the beta distribution."""
    flow_cubic_schedule_weights: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Draws noise levels by a curve through these weights."""
    flow_custom_timesteps: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Draws only these noise levels."""
    flow_timesteps_mode: Annotated[str, _SUB_OPTION] = "fixed-list"
    """How they are drawn."""
    flux_fast_schedule: Annotated[bool, NotYet("leave it out: it is for schnell")] = False
    """Draws the noise levels of models that need four steps."""
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
    """What the padding of prompts is."""
    tokenizer_max_length: int | None = Field(default=None, ge=1)
    """How many tokens of a caption count; 512 for dev unless given."""
    loss_type: Annotated[str, LOSSES] = "l2"
    """How the difference is measured."""
    huber_schedule: Annotated[str, _SUB_OPTION] = "snr"
    """How huber_c moves with the noise level."""
    huber_c: Annotated[float, _SUB_OPTION] = 0.1
    """Where the Huber loss turns from square to straight."""
    caption_dropout_probability: float = Field(default=0.1, ge=0, le=1)
    """The share of samples that are trained without their caption, which makes real guidance work better."""
    masked_loss_probability: Annotated[float, NoEffect("masks are not served yet")] = 1.0
    """How often a mask is used."""
    input_perturbation: Annotated[float, NotYet("leave it out")] = 0.0
    """Adds more noise to the input than the model is asked to find."""
    input_perturbation_steps: Annotated[int, _SUB_OPTION] = 0
    """Over how many steps this fades."""
    offset_noise: Annotated[bool, NotYet("leave it out")] = False
    """Adds a constant to the noise of each channel."""
    noise_offset: Annotated[float, _SUB_OPTION] = 0.1
    """How large that constant is."""
    noise_offset_probability: Annotated[float, _SUB_OPTION] = 0.25
    """How often it is added."""
    prediction_type: Annotated[str | None, _DDPM] = None
    """What the model predicts."""
    snr_gamma: Annotated[float | None, _DDPM] = None
    """Weights noise levels."""
    snr_weight: Annotated[float, _DDPM] = 1.0
    """Weights noise levels."""
    use_soft_min_snr: Annotated[bool, _DDPM] = False
    """Weights noise levels."""
    soft_min_snr_sigma_data: Annotated[float | None, _DDPM] = None
    """Weights noise levels."""
    timestep_bias_strategy: Annotated[str | None, _DDPM] = None
    """Favours some noise levels."""
    timestep_bias_multiplier: Annotated[float, _DDPM] = 1.0
    """Favours some noise levels."""
    timestep_bias_begin: Annotated[int, _DDPM] = 0
    """Favours some noise levels."""
    timestep_bias_end: Annotated[int, _DDPM] = 1000
    """Favours some noise levels."""
    timestep_bias_portion: Annotated[float, _DDPM] = 0.25
    """Favours some noise levels."""
    disable_segmented_timestep_sampling: Annotated[bool, _DDPM] = False
    """Draws the noise levels of a batch one by one."""
    training_scheduler_timestep_spacing: Annotated[str, _DDPM] = "trailing"
    """Where noise levels lie."""
    inference_scheduler_timestep_spacing: Annotated[str, _DDPM] = "trailing"
    """Where noise levels lie."""
    scheduled_sampling_max_step_offset: Annotated[int, _NO_ROLLOUT] = 0
    """Trains on what the model itself drew, up to so many steps."""
    scheduled_sampling_probability: Annotated[float, _SUB_OPTION] = 0.0
    """How often it does."""
    scheduled_sampling_prob_start: Annotated[float, _SUB_OPTION] = 0.0
    """How often it does at first."""
    scheduled_sampling_prob_end: Annotated[float, _SUB_OPTION] = 0.5
    """How often it does at last."""
    scheduled_sampling_ramp_steps: Annotated[int, _SUB_OPTION] = 0
    """The steps between first and last."""
    scheduled_sampling_start_step: Annotated[int, _SUB_OPTION] = 0
    """When it begins."""
    scheduled_sampling_ramp_shape: Annotated[str, _SUB_OPTION] = "linear"
    """How it rises."""
    scheduled_sampling_strategy: Annotated[str, _SUB_OPTION] = "uniform"
    """How the number of steps is drawn."""
    scheduled_sampling_sampler: Annotated[str, _SUB_OPTION] = "unipc"
    """How the model draws."""
    scheduled_sampling_order: Annotated[int, _SUB_OPTION] = 2
    """How exactly it draws."""
    scheduled_sampling_reflexflow: Annotated[bool | None, _NO_ROLLOUT] = None
    """A loss against drift."""
    scheduled_sampling_reflexflow_alpha: Annotated[float, _SUB_OPTION] = 1.0
    """A weight of this loss."""
    scheduled_sampling_reflexflow_beta1: Annotated[float, _SUB_OPTION] = 10.0
    """A weight of this loss."""
    scheduled_sampling_reflexflow_beta2: Annotated[float, _SUB_OPTION] = 1.0
    """A weight of this loss."""
    mixflow_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains on a slower path."""
    mixflow_gamma: Annotated[float, _SUB_OPTION] = 0.8
    """How much slower."""
    internal_guidance_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains an additional head."""
    xm_enabled: Annotated[bool, _EXPERIMENT] = False
    """Chooses the noise."""
    crepa_enabled: Annotated[bool, _EXPERIMENT] = False
    """Aligns what the model computes with an image encoder."""
    layersync_enabled: Annotated[bool, _EXPERIMENT] = False
    """Aligns blocks with each other."""
    nextlat_enabled: Annotated[bool, _EXPERIMENT] = False
    """Predicts the next latent."""
    twinflow_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains a model that needs few steps."""
    distillation_method: Annotated[str | None, _EXPERIMENT] = None
    """Trains a model that needs few steps."""
    distillation_config: Annotated[Mapping[str, Any] | str | None, _SUB_OPTION] = None
    """How."""

    @model_validator(mode="after")
    def _range(self) -> Objective:
        if self.flux_guidance_min > self.flux_guidance_max:
            raise ValueError(
                f"flux_guidance_min {self.flux_guidance_min:g} is above flux_guidance_max {self.flux_guidance_max:g}"
            )
        return self


class Ema(Section):
    """Averages of the trained weights."""

    use_ema: Annotated[bool, _NO_EMA] = False
    """Keeps a running average of the trained weights."""
    ema_decay: Annotated[float, _SUB_OPTION] = 0.995
    """How slowly the average moves."""
    ema_update_interval: Annotated[int, _SUB_OPTION] = 1
    """How often it moves."""
    ema_device: Annotated[str, _SUB_OPTION] = "cpu"
    """Where it is kept."""
    ema_cpu_only: Annotated[bool, _SUB_OPTION] = False
    """Keeps it in main memory at all times."""
    ema_foreach_disable: Annotated[bool, _SUB_OPTION] = False
    """Updates it weight by weight."""
    ema_warmup_steps: Annotated[int, _SUB_OPTION] = 0
    """When it begins."""
    ema_validation: Annotated[str, _SUB_OPTION] = "comparison"
    """Which weights validation draws with."""


class Checkpoints(Section):
    """What is kept so that a run can go on."""

    checkpoint_step_interval: int = Field(default=500, ge=0)
    """A checkpoint is kept every so many steps, and always at the end; 0 keeps only that at the end."""
    checkpoint_epoch_interval: Annotated[int | None, NotYet("use checkpoint_step_interval")] = None
    """A checkpoint is kept every so many epochs."""
    checkpoints_total_limit: int = Field(default=5, ge=0)
    """How many checkpoints are kept; the oldest go first. 0 keeps all."""
    checkpointing_rolling_steps: Annotated[int, NotYet("use checkpoint_step_interval")] = 0
    """Further checkpoints that are replaced soon."""
    checkpoints_rolling_total_limit: Annotated[int, _SUB_OPTION] = 1
    """How many of these are kept."""
    checkpointing_use_tempdir: Annotated[bool, NoEffect("checkpoints always appear whole")] = False
    """Lets checkpoints appear whole."""
    delete_invalid_checkpoints: Annotated[bool, NoEffect("damaged checkpoints are passed over, not deleted")] = False
    """Deletes damaged checkpoints."""
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
    """A prompt to draw."""
    user_prompt_library: str | None = None
    """A JSON file with prompts by name."""
    validation_prompt_library: Annotated[
        bool,
        BeforeValidator(_library_flag),
        NotYet("write your prompts into a file and name it in user_prompt_library"),
    ] = False
    """Draws prompts that come along."""
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
    """Rescales guidance."""
    validation_guidance_skip_layers: Annotated[str | None, NotYet("leave it out")] = None
    """Guides by leaving out layers."""
    validation_guidance_skip_layers_start: Annotated[float | None, _SUB_OPTION] = None
    """When that begins."""
    validation_guidance_skip_layers_stop: Annotated[float | None, _SUB_OPTION] = None
    """When that ends."""
    validation_guidance_skip_scale: Annotated[float | None, _SUB_OPTION] = None
    """How strongly that acts."""
    validation_noise_scheduler: Annotated[
        str | None,
        words(
            "sampler",
            {"euler": "Straight steps, as FLUX.1 is used."},
            later=dict.fromkeys(("ddim", "ddpm", "euler-a", "unipc", "dpm++", "perflow"), "use euler"),
        ),
    ] = None
    """How pictures are drawn."""
    validation_seed: int | None = None
    """The noise that pictures start from; that of the run unless given."""
    validation_seed_source: Annotated[
        str, NoEffect("the noise is drawn on the processor, so that it is the same on every card")
    ] = "cpu"
    """Where the noise is drawn."""
    validation_randomize: Annotated[bool, NotYet("leave it out: pictures can only be compared from the same noise")] = (
        False
    )
    """Starts from other noise each time."""
    validation_torch_compile: Annotated[bool, NotYet("leave it out")] = False
    """Compiles the model for validation."""
    num_validation_images: int = Field(default=1, ge=1)
    """How many pictures are drawn for each prompt."""
    disable_benchmark: bool = False
    """Leaves out the pictures of the base model, which each later one is shown beside."""
    validation_image_format: Annotated[str, IMAGE_FORMATS] = "png"
    """The kind of file for pictures."""
    validation_image_quality: Annotated[int, NoEffect("PNG is exact")] = 90
    """The quality of the files."""
    validation_multigpu: Annotated[str, NoEffect("one process draws")] = "batch-parallel"
    """Which processes draw."""
    validation_method: Annotated[
        str,
        words("method", {"simpletuner-local": "Draws by itself."}, later={"external-script": "use simpletuner-local"}),
    ] = "simpletuner-local"
    """Who draws."""
    validation_external_script: Annotated[str | None, _SUB_OPTION] = None
    """The script that draws."""
    validation_external_background: Annotated[bool, _SUB_OPTION] = False
    """Does not wait for it."""
    validation_using_datasets: Annotated[bool | None, NotYet("use validation_prompt")] = None
    """Starts from training images."""
    validation_input: Annotated[Any, NotYet("use validation_prompt")] = None
    """Starts from these images."""
    validation_stitch_input_location: Annotated[str, _SUB_OPTION] = "left"
    """Where the starting image is shown."""
    validation_preview: Annotated[bool, NotYet("leave it out")] = False
    """Sends pictures while they are drawn."""
    validation_preview_steps: Annotated[int, _SUB_OPTION] = 1
    """How often."""
    validation_adapter_path: Annotated[str | None, NotYet("leave it out")] = None
    """Another adapter to draw with."""
    validation_adapter_name: Annotated[str | None, _SUB_OPTION] = None
    """Its name."""
    validation_adapter_strength: Annotated[float, _SUB_OPTION] = 1.0
    """How strongly it acts."""
    validation_adapter_mode: Annotated[str, _SUB_OPTION] = "adapter_only"
    """What it is compared with."""
    validation_adapter_config: Annotated[Any, NotYet("leave it out")] = None
    """Several adapters to draw with."""
    validation_lycoris_strength: Annotated[float, _SUB_OPTION] = 1.0
    """How strongly a LyCORIS adapter acts."""
    num_eval_images: Annotated[int, NoEffect("there are no eval data sets yet")] = 4
    """How many batches of an eval data set are used."""
    eval_steps_interval: Annotated[int | None, NotYet("leave it out: judge by the pictures")] = None
    """Measures the loss on eval data sets every so many steps."""
    eval_epoch_interval: Annotated[float | None, NotYet("leave it out: judge by the pictures")] = None
    """Measures the loss on eval data sets every so many epochs."""
    eval_timesteps: Annotated[int, _SUB_OPTION] = 28
    """At how many noise levels."""
    eval_dataset_pooling: Annotated[bool, _SUB_OPTION] = False
    """Takes all eval data sets as one."""
    eval_dataset_id: Annotated[str | None, NotYet("leave it out: judge by the pictures")] = None
    """The eval data set to use."""
    eval_loss_disable: Annotated[bool, NoEffect("no loss is measured on eval data sets yet")] = False
    """Does not measure it."""
    evaluation_type: Annotated[
        str, words("evaluation", {"none": "Pictures are not scored."}, later={"clip": "judge by the pictures"})
    ] = "none"
    """How pictures are scored."""
    pretrained_evaluation_model_name_or_path: Annotated[str, _SUB_OPTION] = "openai/clip-vit-large-patch14-336"
    """The model that scores pictures."""

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
    width, _, height = text.lower().partition("x")
    try:
        numbers = float(width), float(height or width)
    except ValueError as error:
        raise ValueError(f"'{text}' is not a size; write 1024 or 1024x768") from error
    if not all(0 < number < 20_000 for number in numbers):
        raise ValueError(f"'{text}' is not a size; write 1024 or 1024x768")
    if not height and numbers[0] < 128:
        numbers = (math.sqrt(numbers[0] * 1e6),) * 2
    return max(16, round(numbers[0] / 16) * 16), max(16, round(numbers[1] / 16) * 16)


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
    """Uploads to other services."""


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

    report_to: TextList = (NONE,)
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
    """Sends messages to other services."""
    webhook_reporting_interval: Annotated[int | None, _SUB_OPTION] = None
    """How often."""
    print_filenames: Annotated[bool, NoEffect("damaged files are always named")] = False
    """Prints the names of files."""
    print_sampler_statistics: Annotated[bool, NoEffect("progress.jsonl holds every step")] = False
    """Prints what was drawn."""

    @field_validator("report_to")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(REPORTS.check(name) for name in value)

    def trackers(self) -> list[str]:
        """The trackers to open."""
        return [name for name in TRACKERS if name in self.report_to or "all" in self.report_to]

    def unserved(self) -> Iterator[tuple[str, str]]:
        """Trackers that were asked for and are not served yet, each with what to use instead."""
        for name in self.report_to:
            if name in REPORTS.later:
                yield "report_to", f"'{name}' is not served yet; {REPORTS.later[name]}"


class Distributed(Section):
    """Several processes or machines."""

    num_processes: Annotated[int, _ONE_PROCESS] = 1
    """How many processes train together, usually one for each card."""
    num_machines: Annotated[int, _ONE_PROCESS] = 1
    """How many machines train together."""
    main_process_ip: Annotated[str, _SUB_OPTION] = "127.0.0.1"
    """Where the first machine is."""
    main_process_port: Annotated[int, _SUB_OPTION] = 29500
    """Where the first machine listens."""
    machine_rank: Annotated[int, _SUB_OPTION] = 0
    """The number of this machine."""
    same_network: Annotated[bool, _SUB_OPTION] = True
    """Whether all machines are in one network."""
    accelerate_config: Annotated[str | None, _ONE_PROCESS] = None
    """A config file of accelerate."""
    accelerate_extra_args: Annotated[str | None, _ONE_PROCESS] = None
    """More arguments for accelerate."""
    deepspeed_config: Annotated[Any, _ONE_PROCESS] = None
    """Settings of DeepSpeed."""
    offload_param_path: Annotated[str | None, _SUB_OPTION] = None
    """Where DeepSpeed keeps weights on disk."""
    fsdp_enable: Annotated[bool, _ONE_PROCESS] = False
    """Spreads the weights over several cards."""
    fsdp_version: Annotated[int, _SUB_OPTION] = 2
    """Settings of FSDP."""
    fsdp_reshard_after_forward: Annotated[bool, _SUB_OPTION] = True
    """Settings of FSDP."""
    fsdp_state_dict_type: Annotated[str | None, _SUB_OPTION] = None
    """Settings of FSDP."""
    fsdp_auto_wrap_policy: Annotated[str | None, _SUB_OPTION] = None
    """Settings of FSDP."""
    fsdp_transformer_layer_cls_to_wrap: Annotated[str | None, _SUB_OPTION] = None
    """Settings of FSDP."""
    fsdp_cpu_offload: Annotated[bool, _SUB_OPTION] = False
    """Settings of FSDP."""
    fsdp_cpu_ram_efficient_loading: Annotated[bool, _SUB_OPTION] = False
    """Settings of FSDP."""
    fsdp_limit_all_gathers: Annotated[bool, _SUB_OPTION] = True
    """Settings of FSDP."""
    fsdp_activation_checkpointing: Annotated[bool, _SUB_OPTION] = False
    """Settings of FSDP."""
    context_parallel_size: Annotated[int, _ONE_PROCESS] = 1
    """Spreads each image over several cards."""
    context_parallel_comm_strategy: Annotated[str | None, _SUB_OPTION] = None
    """How these cards exchange."""
    find_unused_parameters: Annotated[bool | None, _SUB_OPTION] = None
    """Looks for weights without gradients."""
    local_rank: Annotated[int, NoEffect("the launcher sets it")] = -1
    """The number of this process."""
