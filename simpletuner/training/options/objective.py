"""What is trained towards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from simpletuner.schema import NoEffect, NotYet, NumberList, Section, belongs_to, conflict, words

_DDPM = NoEffect("it is for models that are trained by diffusion steps; FLUX is trained by flow matching")
_NO_ROLLOUT = NotYet("leave it out: training starts from noised images")
_EXPERIMENT = NotYet("leave it out: it is an experiment of another program")


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
    flow_beta_schedule_alpha: Annotated[float, belongs_to("flow_use_beta_schedule")] = 2.0
    """How strongly the beta distribution favours noisy images."""
    flow_beta_schedule_beta: Annotated[float, belongs_to("flow_use_beta_schedule")] = 2.0
    """How strongly the beta distribution favours clean images."""
    flow_cubic_schedule_weights: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Draws noise levels by a smooth curve through these weights."""
    flow_custom_timesteps: Annotated[NumberList | None, NotYet("use flow_sigmoid_scale")] = None
    """Trains only at these noise levels."""
    flow_timesteps_mode: Annotated[str, belongs_to("flow_custom_timesteps")] = "fixed-list"
    """Draws the noise levels in flow_custom_timesteps at random or in turn."""
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
    huber_schedule: Annotated[str, belongs_to("loss_type huber")] = "snr"
    """How huber_c changes with the noise level."""
    huber_c: Annotated[float, belongs_to("loss_type huber")] = 0.1
    """The difference from which on the Huber loss grows in a straight line."""
    caption_dropout_probability: float = Field(default=0.1, ge=0, le=1)
    """The share of samples that are trained without their caption, which makes real guidance work better."""
    masked_loss_probability: float = Field(default=1.0, ge=0, le=1)
    """The share of batches for which segmentations of conditioning data sets are used; masks always are."""
    input_perturbation: Annotated[float, NotYet("leave it out: lora_dropout helps against overfitting too")] = 0.0
    """Adds more noise to the picture than the model is asked to find."""
    input_perturbation_steps: Annotated[int, belongs_to("input_perturbation")] = 0
    """Over how many steps this additional noise fades away."""
    offset_noise: Annotated[bool, NotYet("leave it out: FLUX draws dark and bright pictures without it")] = False
    """Adds the same number to all noise of a channel, for darker and brighter pictures."""
    noise_offset: Annotated[float, belongs_to("offset_noise")] = 0.1
    """How large the number of offset_noise is."""
    noise_offset_probability: Annotated[float, belongs_to("offset_noise")] = 0.25
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
    scheduled_sampling_probability: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 0.0
    """The share of samples that the model itself draws on."""
    scheduled_sampling_prob_start: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 0.0
    """The share of such samples at the beginning."""
    scheduled_sampling_prob_end: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 0.5
    """The share of such samples at the end."""
    scheduled_sampling_ramp_steps: Annotated[int, belongs_to("scheduled_sampling_max_step_offset")] = 0
    """Over how many steps that share grows."""
    scheduled_sampling_start_step: Annotated[int, belongs_to("scheduled_sampling_max_step_offset")] = 0
    """The step from which on there are such samples."""
    scheduled_sampling_ramp_shape: Annotated[str, belongs_to("scheduled_sampling_max_step_offset")] = "linear"
    """Whether that share grows in a straight line or along a cosine."""
    scheduled_sampling_strategy: Annotated[str, belongs_to("scheduled_sampling_max_step_offset")] = "uniform"
    """Whether few or many steps are preferred."""
    scheduled_sampling_sampler: Annotated[str, belongs_to("scheduled_sampling_max_step_offset")] = "unipc"
    """The solver with which the model draws on."""
    scheduled_sampling_order: Annotated[int, belongs_to("scheduled_sampling_max_step_offset")] = 2
    """The order of that solver."""
    scheduled_sampling_reflexflow: Annotated[bool | None, _NO_ROLLOUT] = None
    """Adds a loss against drift to such samples."""
    scheduled_sampling_reflexflow_alpha: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 1.0
    """How strongly samples with much drift count."""
    scheduled_sampling_reflexflow_beta1: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 10.0
    """The weight of the loss against drift."""
    scheduled_sampling_reflexflow_beta2: Annotated[float, belongs_to("scheduled_sampling_max_step_offset")] = 1.0
    """The weight of the usual loss beside it."""
    mixflow_enabled: Annotated[bool, _EXPERIMENT] = False
    """Trains on a path that stays near noise for longer."""
    mixflow_gamma: Annotated[float, belongs_to("mixflow_enabled")] = 0.8
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
    distillation_config: Annotated[Mapping[str, Any] | str | None, belongs_to("distillation_method")] = None
    """How such a method is set."""

    @model_validator(mode="after")
    def _range(self) -> Objective:
        if self.flux_guidance_min > self.flux_guidance_max:
            given = f"{self.flux_guidance_min:g} is above {self.flux_guidance_max:g}"
            raise conflict("flux_guidance_min, flux_guidance_max", f"{given}; swap them")
        return self
