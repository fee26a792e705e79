"""Pictures that show how training goes."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from simpletuner.models.samplers import SAMPLERS
from simpletuner.schema import Listed, NoEffect, NotYet, Section, words

IMAGE_FORMATS = words(
    "image format",
    {
        "png": "Exact.",
        "webp": "Small, and loses little.",
        "jpeg": "Small, and every program reads it.",
        "jpg": "The same as jpeg.",
    },
)


def _library_flag(value: Any) -> Any:
    """The built-in library is asked for by true or a name."""
    text = str(value).lower()
    known = dict.fromkeys(("false", "0", "no", "none", ""), False)
    known |= dict.fromkeys(("true", "1", "yes", "default", "image"), True)
    if text not in known:
        raise ValueError(f"must be true or false, got '{value}'; prompts of your own are named in user_prompt_library")
    return known[text]


class Validation(Section):
    """Pictures that show how training goes."""

    validation_prompt: str | None = None
    """One prompt to draw."""
    user_prompt_library: str | None = None
    """A file with prompts to draw: JSON with names and prompts, or a .txt, .toml or .json file of sd-scripts.

    A prompt may bring its own negative_prompt, width, height, seed, steps, guidance, guidance_real, image, strength and
    adapter_strength, which multiplies what the adapter adds: 0 draws as the base does, 1 as it was trained.
    """
    validation_prompt_library: Annotated[bool, BeforeValidator(_library_flag)] = False
    """Draws a collection of 54 prompts that come along."""
    validation_negative_prompt: str = "blurry, cropped, ugly"
    """What should not be in the picture; it acts only with validation_guidance_real above 1."""
    validation_step_interval: int = Field(default=100, ge=0)
    """Pictures are drawn every so many steps, and always at the end; 0 draws only those at the end."""
    validation_epoch_interval: int | None = Field(default=None, ge=1)
    """Pictures are drawn at the end of every so many epochs; validation_step_interval acts beside it if it is given."""
    validate_after_step: int | None = Field(default=None, ge=0)
    """No pictures are drawn before this step, but those of the base model."""
    validate_after_epoch: int | None = Field(default=None, ge=0)
    """No pictures are drawn before so many epochs are over, but those of the base model."""
    validation_on_startup: bool = False
    """Draws pictures when training begins or goes on, before its first step."""
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
    validation_guidance_skip_layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...] | None, Listed] = None
    """Guides pictures away from what the model draws without these blocks, counted from 0: 7,8,9."""
    validation_guidance_skip_layers_start: float = Field(default=0.01, ge=0, le=1)
    """The share of the steps after which that begins."""
    validation_guidance_skip_layers_stop: float = Field(default=0.2, ge=0, le=1)
    """The share of the steps after which that ends."""
    validation_guidance_skip_scale: float = Field(default=2.8, ge=0)
    """How strongly pictures are guided in that way."""
    validation_noise_scheduler: Annotated[str | None, SAMPLERS] = None
    """How the way from noise to picture is walked; euler unless given."""
    validation_seed: int | None = Field(default=None, gt=-(2**62), lt=2**62)
    """The noise that pictures start from; that of the run unless given."""
    validation_seed_source: Annotated[
        str, NoEffect("the noise is drawn on the processor, so that it is the same on every card")
    ] = "cpu"
    """Whether the noise is drawn on the processor or on the card."""
    validation_randomize: bool = False
    """Starts pictures from other noise at every step; what the model has learned is then harder to see."""
    validation_torch_compile: Annotated[bool, NotYet("leave it out: validation runs without torch.compile")] = False
    """Compiles the model before pictures are drawn."""
    num_validation_images: int = Field(default=1, ge=1)
    """How many pictures are drawn for each prompt."""
    disable_benchmark: bool = False
    """Leaves out the pictures of the base model, which each later one is shown beside."""
    validation_image_format: Annotated[str, IMAGE_FORMATS] = "png"
    """The kind of file that pictures are saved as."""
    validation_image_quality: int = Field(default=90, ge=1, le=100)
    """How good the files are, from 1 to 100, for kinds that lose something."""
    validation_multigpu: Annotated[str, NoEffect("one process draws")] = "batch-parallel"
    """Whether several cards share the pictures."""
    validation_method: Annotated[
        str,
        words(
            "method",
            {
                "simpletuner-local": "Draws by itself.",
                "external-script": "Runs validation_external_script for the newest checkpoint instead.",
            },
        ),
    ] = "simpletuner-local"
    """Whether pictures are drawn by this program or by a script."""
    validation_external_script: str | None = None
    """The command that draws the pictures, without a shell; facts of the run stand in braces.

    These are {local_checkpoint_path}, {global_step}, {model_family}, and options such as {validation_prompt}.
    """
    validation_external_background: bool = False
    """Goes on with training while that command runs."""
    validation_using_datasets: bool | None = None
    """Changes training images, num_eval_images of each data set, instead of drawing prompts."""
    validation_input: Any = None
    """Changes these pictures instead of drawing prompts: a list of objects with path, prompt and strength (0 to 1).

    A JSON file with that list may be named too. Models that look at pictures, such as kontext, look at them.
    """
    validation_stitch_input_location: Annotated[
        str, words("side", {"left": "In front of the others.", "right": "Behind the others."})
    ] = "left"
    """The side of the sheet on which the image is shown that a picture started from."""
    validation_preview: bool = False
    """Shows pictures while they are drawn: small ones, in validation_images/previews and for webhooks."""
    validation_preview_steps: int = Field(default=1, ge=1)
    """The number of steps between two such pictures."""
    validation_preview_model: str = "madebyollin/taef1"
    """The tiny autoencoder that shows them: a folder, or an id on the Hub."""
    validation_adapter_path: str | None = None
    """Another LoRA that is put on for validation, besides what is trained: a file, or an id on the Hub.

    After the id, the name of the file may follow: you/your-lora:file.safetensors.
    """
    validation_adapter_name: str | None = None
    """The name of that adapter among the pictures; that of its file unless given."""
    validation_adapter_strength: float = 1.0
    """How strongly that adapter acts."""
    validation_adapter_mode: Annotated[
        str,
        words(
            "mode",
            {
                "adapter_only": "All pictures are drawn with it.",
                "comparison": "All pictures are drawn without it and with it.",
                "none": "It is not put on.",
            },
        ),
    ] = "adapter_only"
    """Whether pictures are drawn with that adapter, without it, or both."""
    validation_adapter_config: Any = None
    """Several adapters that are put on for validation, one after the other: a list of paths, or of objects.

    An object has a label, and a path with a strength or several of them under paths. A JSON file may be named too.
    Pictures without any of them are drawn first.
    """
    validation_lycoris_strength: float = Field(default=1.0, ge=0)
    """How strongly a LyCORIS adapter acts in validation: 0 draws as the base does, 1 as it is trained."""
    num_eval_images: int = Field(default=4, ge=1)
    """How many images of each eval data set the loss is measured on, and of each data set are changed.

    The latter is for validation_using_datasets.
    """
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
        str, words("evaluation", {"none": "Pictures are not scored.", "clip": "A score from 0 to 100 by CLIP."})
    ] = "none"
    """How well pictures fit their prompts, as a number."""
    pretrained_evaluation_model_name_or_path: str = "openai/clip-vit-large-patch14-336"
    """The CLIP model that measures how well pictures fit their prompts: a folder, or an id on the Hub."""

    def measures(self, dataset: str) -> bool:
        """Whether the loss on an eval data set of this id is measured at all."""
        is_wanted = self.eval_dataset_id in (None, dataset) and not self.eval_loss_disable
        return is_wanted and (self.eval_steps_interval is not None or self.eval_epoch_interval is not None)

    def sampler(self) -> str:
        """How the way from noise to picture is walked."""
        return self.validation_noise_scheduler or "euler"

    def steps_between(self) -> int:
        """How many steps lie between two validations; 0 for none, as where epochs are counted instead."""
        counts_epochs = self.validation_epoch_interval is not None
        is_given = "validation_step_interval" in self.model_fields_set
        return 0 if counts_epochs and not is_given else self.validation_step_interval

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
