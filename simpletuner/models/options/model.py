"""Which model is trained, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import model_validator

from simpletuner.models.families import FAMILIES, FLAVOURS
from simpletuner.models.family import Weights
from simpletuner.schema import NoEffect, NotYet, Section, conflict, words

_NO_CONTROLNET = NotYet("leave it out to train a LoRA without ControlNet")


MODEL_TYPES = words(
    "model type",
    {"lora": "Trains a small adapter and leaves the model as it is."},
    later={"full": "use lora"},
)


class Model(Section):
    """Which model is trained, and where its weights come from."""

    model_family: Annotated[str, FAMILIES] = "flux"
    """The kind of model; every flavour of FLUX.1 is of the family flux."""
    model_flavour: Annotated[str, FLAVOURS] | None = None
    """Which published variant to start from, or which one a model of your own was made from; Krea by default."""
    model_type: Annotated[str, MODEL_TYPES] = "lora"
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
    controlnet: Annotated[bool, _NO_CONTROLNET] = False
    """Trains a ControlNet, which follows a picture besides the prompt."""
    control: Annotated[bool, _NO_CONTROLNET] = False
    """Trains an adapter that sees a second picture as further channels of the image."""
    controlnet_model_name_or_path: Annotated[str | None, _NO_CONTROLNET] = None
    """The ControlNet to go on from."""
    controlnet_custom_config: Annotated[Mapping[str, Any] | str | None, _NO_CONTROLNET] = None
    """Gives a new ControlNet another shape than usual."""

    @model_validator(mode="after")
    def _of_the_family(self) -> Model:
        known = FAMILIES[self.model_family].flavours
        if self.model_flavour is not None and self.model_flavour not in known:
            names = ", ".join(known)
            said = f"'{self.model_flavour}' is not of the family {self.model_family}; its flavours are {names}"
            raise conflict("model_flavour", said)
        return self

    def weights(self) -> Weights:
        """Where the weights come from."""
        return FAMILIES[self.model_family].weights(
            flavour=self.model_flavour,
            base=self.pretrained_model_name_or_path,
            transformer=self.pretrained_transformer_model_name_or_path,
            transformer_subfolder=self.pretrained_transformer_subfolder,
            vae=self.pretrained_vae_model_name_or_path,
            revision=self.revision,
            variant=self.variant,
            clip=self.text_encoder_path,
            t5=self.pretrained_t5_model_name_or_path,
        )
