"""What is trained towards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from simpletuner.schema import IfChanged, NoEffect, NotYet, NumberList, Section, belongs_to, conflict, words
from simpletuner.training.objective.losses import HUBER_SCHEDULES, LOSSES
from simpletuner.training.objective.path import PREDICTIONS
from simpletuner.training.objective.rollout import RAMPS, STRATEGIES
from simpletuner.training.objective.solvers import SOLVERS
from simpletuner.training.objective.weighting import TIMESTEP_SAMPLINGS, WEIGHTING_SCHEMES

_DDPM = NoEffect("it is for models that are trained by diffusion steps; FLUX is trained by flow matching")
_EXPERIMENT = NotYet("leave it out: it is an experiment of another program")


GUIDANCE_MODES = words(
    "guidance mode",
    {
        "constant": "Every sample is trained with flux_guidance_value.",
        "random-range": "Each sample is trained with a value between flux_guidance_min and flux_guidance_max.",
    },
)
TIMESTEPS_MODES = words(
    "mode",
    {
        "fixed-list": "Each sample draws one of them.",
        "round-robin": "The samples take them in turn, in the order of the list.",
    },
)


def _levels(given: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if given is not None and (not given or min(given) < 0 or max(given) > _TIMESTEPS):
        raise ValueError(f"must be noise levels from 0 to 1, or timesteps from 0 to {_TIMESTEPS}, got {list(given)}")
    if given is not None and max(given) > 1 and any(0 < one < 1 for one in given):
        raise ValueError(f"has noise levels below 1 and timesteps above 1 in it; write all in one way: {list(given)}")
    return given


def _weights(given: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if given is not None and (len(given) < 2 or min(given) < 0 or max(given) == 0):
        raise ValueError(f"must be two or more weights that are not negative, and not all 0, got {list(given)}")
    return given


_TIMESTEPS = 1000


class Objective(Section):
    """What is trained towards."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    flow_schedule_shift: float | None = Field(default=3.0, ge=0)
    """Moves training towards noisier images, for composition; 0 or 1 does not move it."""
    flow_schedule_auto_shift: bool = False
    """Chooses the shift by the size of the image, as FLUX.1 was trained; it wins over flow_schedule_shift."""
    flow_sigmoid_scale: float = Field(default=1.0, gt=0)
    """How widely noise levels spread around the middle."""
    flow_use_uniform_schedule: bool = False
    """Draws all noise levels equally often, before they are moved by the shift."""
    flow_use_beta_schedule: bool = False
    """Draws noise levels from a beta distribution, before they are moved by the shift."""
    flow_beta_schedule_alpha: float = Field(default=2.0, gt=0, le=100)
    """How strongly the beta distribution favours noisy images."""
    flow_beta_schedule_beta: float = Field(default=2.0, gt=0, le=100)
    """How strongly the beta distribution favours clean images."""
    flow_cubic_schedule_weights: Annotated[NumberList | None, AfterValidator(_weights)] = None
    """Draws noise levels by a smooth curve through these weights, the first for clean images and the last for noise."""
    flow_custom_timesteps: Annotated[NumberList | None, AfterValidator(_levels)] = None
    """Trains only at these noise levels: from 0 to 1, or from 0 to 1000 when one of them is above 1."""
    flow_timesteps_mode: Annotated[str, TIMESTEPS_MODES] = "fixed-list"
    """Draws the noise levels in flow_custom_timesteps at random or in turn."""
    flow_timestep_sampling: Annotated[str | None, TIMESTEP_SAMPLINGS] = None
    """Draws noise levels as sd-scripts does, by its own names; it says where the shift comes from too."""
    flow_weighting_scheme: Annotated[str, WEIGHTING_SCHEMES] = "uniform"
    """Which noise levels sd-scripts prefers, in its table or in its loss."""
    flow_logit_mean: float = 0.0
    """Where in the table of sd-scripts the scheme logit_normal has its middle; above 0 are cleaner images."""
    flow_logit_std: float = Field(default=1.0, gt=0)
    """How widely the scheme logit_normal spreads."""
    flow_mode_scale: float = Field(default=1.29, ge=-1, le=1.75)
    """How strongly the scheme mode prefers the middle of the table."""
    min_timestep: float = Field(default=0.0, ge=0, le=1000)
    """The lowest noise level, from 0 to 1000: all levels are squeezed into what lies above it."""
    max_timestep: float = Field(default=1000.0, ge=0, le=1000)
    """The highest noise level, from 0 to 1000: all levels are squeezed into what lies below it."""
    flow_prediction_mode: Annotated[str, PREDICTIONS] = "raw"
    """What the answer of the model is taken for; all but raw need flow_reproduce_sd_scripts."""
    flow_reproduce_sd_scripts: bool = False
    """Allows a flow_prediction_mode that makes FLUX unlearn its way of drawing, to repeat a run of sd-scripts."""
    flux_fast_schedule: bool = False
    """Trains only at the noise levels that models with four steps use; schnell sets it by itself."""
    flux_guidance_mode: Annotated[str, GUIDANCE_MODES] = "constant"
    """Which guidance value the model is told in training."""
    flux_guidance_value: float = 1.0
    """The constant guidance value; 1.0 suits LoRA training on dev."""
    flux_guidance_min: float = 0.0
    """The lowest random guidance value."""
    flux_guidance_max: float = 4.0
    """The highest random guidance value."""
    flux_attention_masked_training: bool = False
    """Hides the padding of prompts from the model, in training and validation; libreflux sets it by itself."""
    t5_padding: Annotated[
        str,
        words(
            "padding",
            {
                "unmodified": "Padding stays as T5 encodes it, as FLUX.1 was trained.",
                "zero": "Padding is set to zero, which makes cached captions much smaller.",
            },
        ),
    ] = "unmodified"
    """What the T5 encoder's output holds behind the end of a prompt."""
    tokenizer_max_length: int | None = Field(default=None, ge=1, le=512)
    """How many tokens of a caption count; 512 for dev unless given."""
    loss_type: Annotated[str, LOSSES] = "l2"
    """How the difference between what the model says and what it should say is measured."""
    huber_schedule: Annotated[str, HUBER_SCHEDULES] = "snr"
    """How huber_c changes with the noise level."""
    huber_c: float = Field(default=0.1, gt=0)
    """The difference from which on the Huber loss grows in a straight line."""
    huber_scale: float = Field(default=1.0, gt=0)
    """What huber_c is multiplied with after it has followed its schedule."""
    caption_dropout_probability: float = Field(default=0.1, ge=0, le=1)
    """The share of samples that are trained without their caption, which makes real guidance work better."""
    masked_loss_probability: float = Field(default=1.0, ge=0, le=1)
    """The share of batches for which segmentations of conditioning data sets are used; masks always are."""
    masked_loss_by_area: bool = False
    """Takes the mean of the loss over what a mask shows, so that small masks teach as much as large ones."""
    input_perturbation: float = Field(default=0.0, ge=0)
    """Adds more noise to the picture than the model is asked to find: 0.1 adds a tenth."""
    input_perturbation_steps: int = Field(default=0, ge=0)
    """Over how many steps this additional noise fades away; 0 keeps it."""
    input_perturbation_random: bool = False
    """Draws for each sample how much of this additional noise it gets."""
    offset_noise: bool = False
    """Adds the same number to all noise of a channel, for darker and brighter pictures."""
    noise_offset: float = Field(default=0.1, ge=0)
    """How large the number of offset_noise is."""
    noise_offset_probability: float = Field(default=0.25, ge=0, le=1)
    """The share of samples with offset_noise."""
    noise_offset_random_strength: bool = False
    """Draws for each sample how much of noise_offset it gets."""
    adaptive_noise_scale: float = 0.0
    """Adds so much of a channel's mean, without its sign, to noise_offset; negative numbers take away."""
    multires_noise_iterations: int = Field(default=0, ge=0, le=64)
    """How many layers of coarser and coarser noise are added, for large shapes; 0 for none, 6 to 10 are usual."""
    multires_noise_discount: float = Field(default=0.3, ge=0, le=1)
    """How strong each layer is compared with the one before."""
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
    scheduled_sampling_max_step_offset: int = Field(default=0, ge=0, le=100)
    """Trains on pictures that the model itself drew on, by up to so many of 28 steps; 0 does not."""
    scheduled_sampling_probability: float = Field(default=0.0, ge=0, le=1)
    """The share of samples that the model itself draws on."""
    scheduled_sampling_prob_start: float | None = Field(default=None, ge=0, le=1)
    """The share of such samples at the beginning; scheduled_sampling_probability unless given."""
    scheduled_sampling_prob_end: float = Field(default=0.5, ge=0, le=1)
    """The share of such samples at the end of scheduled_sampling_ramp_steps."""
    scheduled_sampling_ramp_steps: int = Field(default=0, ge=0)
    """Over how many steps that share grows; 0 keeps it as it is at the beginning."""
    scheduled_sampling_start_step: int = Field(default=0, ge=0)
    """The step from which on there are such samples."""
    scheduled_sampling_ramp_shape: Annotated[str, RAMPS] = "linear"
    """Whether that share grows in a straight line or along a cosine."""
    scheduled_sampling_strategy: Annotated[str, STRATEGIES] = "uniform"
    """Whether few or many steps are preferred."""
    scheduled_sampling_sampler: Annotated[str, SOLVERS] = "unipc"
    """The solver with which the model draws on."""
    scheduled_sampling_order: int = Field(default=2, ge=1, le=2)
    """How many answers of the model unipc and dpm look back on in a step."""
    scheduled_sampling_reflexflow: bool | None = None
    """Adds a loss against drift to such samples."""
    scheduled_sampling_reflexflow_alpha: float = Field(default=1.0, ge=0)
    """How much more the loss counts where such samples have drifted."""
    scheduled_sampling_reflexflow_beta1: float = Field(default=10.0, ge=0)
    """The weight of the loss against drift."""
    scheduled_sampling_reflexflow_beta2: float = Field(default=1.0, ge=0)
    """The weight of the usual loss beside it."""
    mixflow_enabled: bool = False
    """Trains on pictures that are noisier than the model is told, as drawn ones are; levels are drawn its own way."""
    mixflow_gamma: float = Field(default=0.8, ge=0, le=1)
    """How much noisier they are at most, as a share of what is left to pure noise."""
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
    distillation_config: Annotated[Mapping[str, Any] | str | None, belongs_to("distillation_method")] = None
    """How such a method is set."""

    @model_validator(mode="after")
    def _range(self) -> Objective:
        if self.flux_guidance_min > self.flux_guidance_max:
            given = f"{self.flux_guidance_min:g} is above {self.flux_guidance_max:g}"
            raise conflict("flux_guidance_min, flux_guidance_max", f"{given}; swap them")
        if self.min_timestep >= self.max_timestep:
            given = f"{self.min_timestep:g} is not below {self.max_timestep:g}"
            raise conflict("min_timestep, max_timestep", f"{given}; leave room between them")
        return self

    def custom_levels(self) -> tuple[float, ...]:
        """The noise levels of flow_custom_timesteps, all in 0..1."""
        given = self.flow_custom_timesteps or ()
        is_timesteps = max(given, default=0) > 1
        return tuple(one / _TIMESTEPS if is_timesteps else one for one in given)
