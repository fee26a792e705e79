"""Which model is trained, and where its weights come from."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, model_validator

from simpletuner.models.controlling import ControlNetShape, shape_of
from simpletuner.models.families import FAMILIES, FLAVOURS
from simpletuner.models.family import Sources, Weights
from simpletuner.schema import IfChanged, NoEffect, NotYet, Section, conflict, words

MODEL_TYPES = words(
    "model type",
    {
        "lora": "Trains a small adapter and leaves the model as it is.",
        "full": "Trains all weights of the model: needs much more memory, and the result is as large as the model.",
    },
)


class Model(Section):
    """Which model is trained, and where its weights come from."""

    if_changed: ClassVar[IfChanged] = IfChanged.TOLD

    model_family: Annotated[str, FAMILIES, IfChanged.REFUSED] = "flux"
    """The kind of model; every flavour of FLUX.1 is of the family flux."""
    model_flavour: Annotated[str, FLAVOURS] | None = None
    """Which published variant to start from, or which one a model of your own was made from; Krea by default."""
    model_type: Annotated[str, MODEL_TYPES, IfChanged.REFUSED] = "lora"
    """What is trained: an adapter, or the whole model."""
    pretrained_model_name_or_path: str | None = None
    """A model of your own instead of a flavour: an id on the Hub, a folder in diffusers layout, or a single file."""
    pretrained_transformer_model_name_or_path: str | None = None
    """Takes only the transformer from somewhere else, such as a fine-tuned one: an id, a folder or a single file."""
    pretrained_transformer_subfolder: str = "transformer"
    """The folder of the transformer inside that place; none means that it lies at the top."""
    pretrained_vae_model_name_or_path: str | None = None
    """Takes only the image encoder from somewhere else: an id, a folder, or a single file such as ae.safetensors."""
    pretrained_t5_model_name_or_path: str | None = None
    """Takes only the text encoder T5 from somewhere else: an id, a folder, or a file such as t5xxl_fp16.safetensors."""
    text_encoder_path: str | None = None
    """Takes only the text encoder CLIP from somewhere else: an id, a folder, or a file such as clip_l.safetensors."""
    revision: str | None = None
    """The revision on the Hub: a branch, a tag or a commit."""
    variant: str | None = None
    """The variant of the weight files on the Hub, such as fp16."""
    trust_remote_code: Annotated[bool, NoEffect("no code is ever loaded from the Hub")] = False
    """Allows code from the Hub to run."""
    delete_model_after_load: Annotated[bool, NotYet("delete the Hub's cache yourself after training")] = False
    """Removes downloaded weights once they are loaded."""
    controlnet: Annotated[bool, IfChanged.REFUSED] = False
    """Trains a ControlNet, a network beside the model that follows a picture besides the prompt."""
    control: Annotated[bool, IfChanged.REFUSED] = False
    """Trains the model itself to follow a picture, which it sees as further channels of the image."""
    controlnet_model_name_or_path: str | None = None
    """The ControlNet to go on from: an id on the Hub, or a folder; a new one begins as a copy of the model's blocks."""
    controlnet_custom_config: Annotated[ControlNetShape | None, BeforeValidator(shape_of)] = None
    """The size of a new ControlNet: an object with num_layers and num_single_layers, or the path of a JSON file."""

    @model_validator(mode="after")
    def _of_the_family(self) -> Model:
        known = FAMILIES[self.model_family].flavours
        if self.model_flavour is not None and self.model_flavour not in known:
            names = ", ".join(known)
            said = f"'{self.model_flavour}' is not of the family {self.model_family}; its flavours are {names}"
            raise conflict("model_flavour", said)
        return self

    @property
    def trains_base(self) -> bool:
        """Whether the weights of the transformer itself are trained."""
        return self.model_type == "full" and not self.controlnet

    def weights(self) -> Weights:
        """Where the weights come from."""
        given = Sources(
            flavour=self.model_flavour,
            base=self.pretrained_model_name_or_path,
            transformer=self.pretrained_transformer_model_name_or_path,
            transformer_subfolder=self.pretrained_transformer_subfolder,
            vae=self.pretrained_vae_model_name_or_path,
            clip=self.text_encoder_path,
            t5=self.pretrained_t5_model_name_or_path,
            revision=self.revision,
            variant=self.variant,
        )
        return FAMILIES[self.model_family].weights(given)
