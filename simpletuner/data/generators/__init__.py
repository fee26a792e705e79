"""What can be made out of the images of a data set without a model; the table is complete."""

from __future__ import annotations

from simpletuner.data.generators.base import Generator
from simpletuner.data.generators.canny import Canny
from simpletuner.data.generators.jpeg_artifacts import JpegArtifacts
from simpletuner.data.generators.random_masks import RandomMasks
from simpletuner.data.generators.superresolution import SuperResolution
from simpletuner.schema import Choice

_NEEDS_A_MODEL = "make these pictures beforehand and list their folder as a data set of its own, with conditioning_type"
_MOVES = "FLUX is trained on still images in ordinary colours"

GENERATORS: Choice[type[Generator]] = Choice(
    "generator",
    {
        "superresolution": SuperResolution,
        "super_resolution": SuperResolution,
        "lowres": SuperResolution,
        "jpeg_artifacts": JpegArtifacts,
        "jpeg": JpegArtifacts,
        "compression": JpegArtifacts,
        "canny": Canny,
        "edges": Canny,
        "random_masks": RandomMasks,
        "masks": RandomMasks,
        "inpainting": RandomMasks,
    },
    later={
        **dict.fromkeys(("depth", "depth_map", "depth_midas"), _NEEDS_A_MODEL),
        **dict.fromkeys(("segmentation", "semantic_segmentation"), _NEEDS_A_MODEL),
        **dict.fromkeys(("optical_flow", "sdr", "logc3", "i2v_first_frame"), _MOVES),
    },
)

__all__ = ["GENERATORS", "Canny", "Generator", "JpegArtifacts", "RandomMasks", "SuperResolution"]
