"""Pictures that show how training goes."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from simpletuner.schema import NoEffect, NotYet, Section, belongs_to, words

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
    validation_guidance_skip_layers_start: Annotated[float | None, belongs_to("validation_guidance_skip_layers")] = None
    """The share of the steps after which that begins."""
    validation_guidance_skip_layers_stop: Annotated[float | None, belongs_to("validation_guidance_skip_layers")] = None
    """The share of the steps after which that ends."""
    validation_guidance_skip_scale: Annotated[float | None, belongs_to("validation_guidance_skip_layers")] = None
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
    validation_seed: int | None = Field(default=None, gt=-(2**62), lt=2**62)
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
    validation_external_script: Annotated[str | None, belongs_to("validation_method external-script")] = None
    """The script that draws the pictures."""
    validation_external_background: Annotated[bool, belongs_to("validation_method external-script")] = False
    """Goes on with training while the script draws."""
    validation_using_datasets: Annotated[bool | None, NotYet("use validation_prompt")] = None
    """Starts pictures from training images instead of noise."""
    validation_input: Annotated[Any, NotYet("use validation_prompt")] = None
    """Starts pictures from these images."""
    validation_stitch_input_location: Annotated[str, belongs_to("validation_input")] = "left"
    """The side on which the image is shown that a picture started from."""
    validation_preview: Annotated[bool, NotYet("open the pictures in the output folder")] = False
    """Sends pictures to a webhook while they are drawn."""
    validation_preview_steps: Annotated[int, belongs_to("validation_preview")] = 1
    """The number of steps between two such pictures."""
    validation_adapter_path: Annotated[
        str | None, NotYet("leave it out: pictures are drawn with the adapter that is trained")
    ] = None
    """Another adapter that is put on for validation."""
    validation_adapter_name: Annotated[str | None, belongs_to("validation_adapter_path")] = None
    """The name of that adapter."""
    validation_adapter_strength: Annotated[float, belongs_to("validation_adapter_path")] = 1.0
    """How strongly that adapter acts."""
    validation_adapter_mode: Annotated[str, belongs_to("validation_adapter_path")] = "adapter_only"
    """Whether pictures are drawn with that adapter, without it, or both."""
    validation_adapter_config: Annotated[
        Any, NotYet("leave it out: pictures are drawn with the adapter that is trained")
    ] = None
    """Several adapters that are put on for validation, one after the other."""
    validation_lycoris_strength: Annotated[float, NotYet("leave it at 1")] = 1.0
    """How strongly a LyCORIS adapter acts in validation."""
    num_eval_images: int = Field(default=4, ge=1)
    """How many images of each eval data set the loss is measured on."""
    eval_steps_interval: int | None = Field(default=None, ge=1)
    """Measures the loss on eval data sets every so many steps."""
    eval_epoch_interval: float | None = Field(default=None, gt=0)
    """Measures the loss on eval data sets every so many epochs."""
    eval_timesteps: int = Field(default=28, ge=1)
    """At how many noise levels the loss on eval data sets is measured."""
    eval_dataset_pooling: bool = False
    """Gives one number for all eval data sets together."""
    eval_dataset_id: str | None = None
    """The only eval data set to use."""
    eval_loss_disable: bool = False
    """Does not measure the loss on eval data sets."""
    evaluation_type: Annotated[
        str, words("evaluation", {"none": "Pictures are not scored."}, later={"clip": "judge by the pictures"})
    ] = "none"
    """How well pictures fit their prompts, as a number."""
    pretrained_evaluation_model_name_or_path: Annotated[str, belongs_to("evaluation_type clip")] = (
        "openai/clip-vit-large-patch14-336"
    )
    """The model that measures how well pictures fit their prompts."""

    def measures(self, dataset: str) -> bool:
        """Whether the loss on an eval data set of this id is measured at all."""
        is_wanted = self.eval_dataset_id in (None, dataset) and not self.eval_loss_disable
        return is_wanted and (self.eval_steps_interval is not None or self.eval_epoch_interval is not None)

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
