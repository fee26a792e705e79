"""From the size of an image to its bucket, its one resize and its one crop. Pure: nothing is opened here."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import floor, sqrt

from simpletuner.data.geometry.aspects import AspectBuckets as AspectBuckets
from simpletuner.data.geometry.kohya import Fit, Limits, nearest, without_enlarging
from simpletuner.data.geometry.resolutions import RESOLUTION_TYPES as RESOLUTION_TYPES
from simpletuner.data.geometry.resolutions import in_words as in_words
from simpletuner.data.geometry.resolutions import pixels
from simpletuner.data.items import Box, Chances, Placement, Size
from simpletuner.schema import Choice, Word

LARGEST = 178_956_970
"""More pixels than this are never held at once: they take half a gigabyte, and may come from a tiny file."""

_MIDDLE = Chances()


@dataclass(frozen=True)
class Rules:
    """How one data set wants its images; sizes are in the unit of `resolution_type`."""

    resolution: float = 1024
    resolution_type: str = "pixel_area"
    crop: bool = False
    crop_style: str = "random"
    crop_aspect: str = "square"
    minimum_image_size: float | None = None
    maximum_image_size: float | None = None
    target_downsample_size: float | None = None
    minimum_aspect_ratio: float | None = None
    maximum_aspect_ratio: float | None = None
    aspect_bucket_rounding: int = 2
    alignment: int = 64
    crop_aspect_buckets: tuple[tuple[float, float], ...] = ()
    """Pairs of an aspect ratio, width divided by height, and its weight."""
    max_upscale_threshold: float | None = None
    bucket_mode: str = "aspect"
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    resize_interpolation: str = "lanczos"

    @property
    def draws_bucket(self) -> bool:
        """Whether the bucket of an image depends on chance."""
        return self.bucket_mode == "aspect" and self.crop and CROP_ASPECTS[self.crop_aspect] is drawn

    @property
    def draws_crop(self) -> bool:
        """Whether the crop of an image depends on chance."""
        return CROP_STYLES[self.crop_style] is at_random

    @property
    def wants_faces(self) -> bool:
        """Whether the crop of an image depends on where a face is in it."""
        return CROP_STYLES[self.crop_style] is at_face


def place(size: Size, rules: Rules, *, chances: Chances = _MIDDLE, face: Box | None = None) -> Placement:
    """What to do with an image.

    Args:
        size: Its width and height when it is upright.
        rules: How the data set wants its images.
        chances: What decides on a random crop or shape.
        face: Where its face is, for crop_style face; without one the middle is kept.
    """
    bucket, resize = _fit(size, rules, chances.aspect)
    offset = CROP_STYLES[rules.crop_style]
    across, down = _around(face, size, resize, bucket) if face else (None, None)
    left = offset(resize.width - bucket.width, chances.left, across)
    top = offset(resize.height - bucket.height, chances.top, down)
    return Placement(resize, (left, top), bucket, _interpolation(size, resize, rules))


def centered(size: Size, bucket: Size) -> Placement:
    """An image of this size as large as a bucket, its edges cut off where the shapes differ."""
    resize = _cover(size, bucket)
    crop = ((resize.width - bucket.width) // 2, (resize.height - bucket.height) // 2)
    return Placement(resize, crop, bucket)


def refusal(size: Size, rules: Rules) -> str | None:
    """Why a data set does not want an image of this size, or nothing when it does."""
    if min(size) < 1:
        return "without any pixels"
    if rules.minimum_image_size is not None and _is_smaller(size, rules, rules.minimum_image_size):
        return f"smaller than minimum_image_size ({in_words(rules.minimum_image_size, rules.resolution_type)})"
    aspect = size.width / size.height
    if rules.minimum_aspect_ratio is not None and aspect < rules.minimum_aspect_ratio:
        return f"narrower than minimum_aspect_ratio ({rules.minimum_aspect_ratio:g})"
    if rules.maximum_aspect_ratio is not None and aspect > rules.maximum_aspect_ratio:
        return f"wider than maximum_aspect_ratio ({rules.maximum_aspect_ratio:g})"
    if _is_too_thin(size, rules):
        return f"thinner than bucket_reso_steps ({rules.bucket_reso_steps} px)"
    bucket, resize = _fit(size, rules, 0.5)
    if _is_enlarged_too_much(size, bucket, rules):
        return f"too small for max_upscale_threshold ({rules.max_upscale_threshold:g})"
    if resize.width * resize.height > LARGEST:
        return f"so thin that covering a bucket would take more than {LARGEST:,} pixels"
    return None


def conflicts(rules: Rules) -> Iterator[tuple[str, str]]:
    """Options that contradict each other: the name of one of them, and what to change."""
    yield from (_kohya_conflicts if rules.bucket_mode == "kohya" else _shape_conflicts)(rules)


def _fit(size: Size, rules: Rules, chance: float) -> Fit:
    """Bucket and resize; of an image over maximum_image_size, the resize is that for target_downsample_size."""
    fit = BUCKET_MODES[rules.bucket_mode](size, rules, rules.resolution, chance)
    if not _is_oversized(size, rules):
        return fit
    larger = BUCKET_MODES[rules.bucket_mode](size, rules, rules.target_downsample_size or rules.resolution, chance)
    return fit._replace(resize=_largest(fit.resize, larger.resize, size))


def by_shape(size: Size, rules: Rules, resolution: float, chance: float) -> Fit:
    """One bucket for each rounded aspect ratio, as in SimpleTuner."""
    aspect = (CROP_ASPECTS[rules.crop_aspect] if rules.crop else preserved)(size, rules, chance)
    bucket = _bucket(aspect, rules, resolution)
    return Fit(bucket, _cover(size, bucket))


def by_kohya(size: Size, rules: Rules, resolution: float, chance: float) -> Fit:
    """The buckets of sd-scripts, with its bucket options."""
    limits = _kohya_limits(rules, resolution)
    own = without_enlarging(size, limits) if rules.bucket_no_upscale else None
    return own or nearest(size, limits)


def _kohya_limits(rules: Rules, resolution: float) -> Limits:
    area = round(pixels(resolution, rules.resolution_type))
    return Limits(area, rules.min_bucket_reso, rules.max_bucket_reso, rules.bucket_reso_steps)


def _bucket(aspect: float, rules: Rules, resolution: float) -> Size:
    return RESOLUTION_TYPES[rules.resolution_type](aspect, resolution, rules.alignment)


def _cover(size: Size, bucket: Size) -> Size:
    """The smallest size of the same shape that covers the bucket, in whole pixels, rounded down."""
    if size.width * bucket.height >= bucket.width * size.height:
        return Size(max(bucket.height * size.width // size.height, bucket.width), bucket.height)
    return Size(bucket.width, max(bucket.width * size.height // size.width, bucket.height))


def _largest(least: Size, wanted: Size, own: Size) -> Size:
    """What was wanted, unless that would enlarge the image, or does not cover what is needed."""
    size = wanted if wanted.width <= own.width and wanted.height <= own.height else own
    return size if size.width >= least.width and size.height >= least.height else least


def _around(face: Box, size: Size, resize: Size, bucket: Size) -> tuple[float, float]:
    """Where a crop must begin so that the face is in its middle."""
    return (
        (face.left + face.width / 2) * resize.width / size.width - bucket.width / 2,
        (face.top + face.height / 2) * resize.height / size.height - bucket.height / 2,
    )


def _interpolation(size: Size, resize: Size, rules: Rules) -> str:
    chosen = INTERPOLATIONS[rules.resize_interpolation]
    return chosen.enlarging if resize.width > size.width or resize.height > size.height else chosen.shrinking


def _is_smaller(size: Size, rules: Rules, limit: float) -> bool:
    if rules.resolution_type == "pixel":
        return min(size) < limit
    if rules.crop and rules.crop_aspect == "square":
        return min(size) < floor(sqrt(pixels(limit, rules.resolution_type)))
    return size.width * size.height < pixels(limit, rules.resolution_type)


def _is_oversized(size: Size, rules: Rules) -> bool:
    limit = rules.maximum_image_size
    if not limit or not rules.target_downsample_size:
        return False
    if rules.resolution_type == "pixel":
        return max(size) > limit
    return size.width * size.height > pixels(limit, rules.resolution_type)


def _is_too_thin(size: Size, rules: Rules) -> bool:
    """Whether sd-scripts has no bucket for an image that must not be enlarged."""
    if rules.bucket_mode != "kohya" or not rules.bucket_no_upscale:
        return False
    return without_enlarging(size, _kohya_limits(rules, rules.resolution)) is None


def _is_enlarged_too_much(size: Size, bucket: Size, rules: Rules) -> bool:
    if rules.max_upscale_threshold is None:
        return False
    return max(bucket.width / size.width, bucket.height / size.height) > 1 + rules.max_upscale_threshold + 1e-9


def _shape_conflicts(rules: Rules) -> Iterator[tuple[str, str]]:
    if rules.crop and rules.crop_aspect in {"closest", "random"} and not rules.crop_aspect_buckets:
        yield "crop_aspect_buckets", f"is required by crop_aspect {rules.crop_aspect}: a list such as [0.75, 1.0, 1.5]"
    for name in ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"):
        if vars(rules)[name] != vars(_DEFAULTS)[name]:
            yield name, "acts only with bucket_mode kohya; add that, or leave this out"


def _kohya_conflicts(rules: Rules) -> Iterator[tuple[str, str]]:
    step, low, high = rules.bucket_reso_steps, rules.min_bucket_reso, rules.max_bucket_reso
    if rules.resolution_type == "pixel":
        yield "resolution_type", "pixel does not go with bucket_mode kohya, which goes by area; use pixel_area"
    if rules.crop and rules.crop_aspect != "preserve":
        yield "crop", "does not go with bucket_mode kohya, which finds shapes by itself; leave crop out"
    if step % _KOHYA_STEP:
        yield "bucket_reso_steps", f"{step} is no multiple of {_KOHYA_STEP}, as FLUX needs it; use 64 or 32"
    if low > high:
        yield "min_bucket_reso", f"{low} is more than max_bucket_reso, {high}"
    elif not rules.bucket_no_upscale:
        yield from _edge_conflicts(rules, sqrt(pixels(rules.resolution, rules.resolution_type)))


def _edge_conflicts(rules: Rules, edge: float) -> Iterator[tuple[str, str]]:
    """Limits that leave out the square of the wanted area; sd-scripts rounds them away from each other before."""
    step, low, high = rules.bucket_reso_steps, rules.min_bucket_reso, rules.max_bucket_reso
    if low // step * step > edge:
        yield "min_bucket_reso", f"{low} is more than the edge of a square of the wanted area, {edge:.0f} px; lower it"
    if -(-high // step) * step < edge:
        yield "max_bucket_reso", f"{high} is less than the edge of a square of the wanted area, {edge:.0f} px; raise it"


def square(size: Size, rules: Rules, chance: float) -> float:
    """Every image is cropped to a square."""
    return 1.0


def preserved(size: Size, rules: Rules, chance: float) -> float:
    """The shape of the image is kept, and only the edge that does not fit its bucket is cropped."""
    digits = rules.aspect_bucket_rounding
    return max(round(size.width / size.height, digits), 10.0**-digits)  # a strip must not round to nothing


def closest(size: Size, rules: Rules, chance: float) -> float:
    """The nearest shape of crop_aspect_buckets."""
    aspect = size.width / size.height
    return min((shape for shape, _ in _allowed_shapes(size, rules)), key=lambda shape: abs(shape - aspect))


def drawn(size: Size, rules: Rules, chance: float) -> float:
    """A shape of crop_aspect_buckets is drawn by its weight, once for each image."""
    shapes = _allowed_shapes(size, rules)
    ends = list(accumulate(weight for _, weight in shapes))
    return shapes[min(bisect(ends, chance * ends[-1]), len(shapes) - 1)][0]


def _allowed_shapes(size: Size, rules: Rules) -> Sequence[tuple[float, float]]:
    """The shapes that do not enlarge the image too much; all of them when each one does."""
    shapes = rules.crop_aspect_buckets
    buckets = ((one, _bucket(one[0], rules, rules.resolution)) for one in shapes)
    return [one for one, bucket in buckets if not _is_enlarged_too_much(size, bucket, rules)] or shapes


def at_random(spare: int, chance: float, face: float | None) -> int:
    """Anywhere; the place is drawn once for each image and stays the same."""
    return min(int(chance * (spare + 1)), spare)


def at_center(spare: int, chance: float, face: float | None) -> int:
    """The middle of the image."""
    return spare // 2


def at_corner(spare: int, chance: float, face: float | None) -> int:
    """The top left corner."""
    return 0


def at_face(spare: int, chance: float, face: float | None) -> int:
    """The largest face in the middle, as far as the image goes; the middle of the image when there is no face."""
    return spare // 2 if face is None else min(max(round(face), 0), spare)


class Interpolation(Word):
    """A way to resize, and what it is called in a placement."""

    def __init__(self, meaning: str, shrinking: str, *, enlarging: str = "") -> None:
        """`enlarging` is given when it is another way than `shrinking`."""
        super().__init__(meaning)
        self.shrinking = shrinking
        self.enlarging = enlarging or shrinking


BUCKET_MODES: Choice[Callable[[Size, Rules, float, float], Fit]] = Choice(
    "bucket mode", {"aspect": by_shape, "kohya": by_kohya}
)

CROP_STYLES: Choice[Callable[[int, float, float | None], int]] = Choice(
    "crop style",
    {"random": at_random, "center": at_center, "centre": at_center, "corner": at_corner, "face": at_face},
)

CROP_ASPECTS: Choice[Callable[[Size, Rules, float], float]] = Choice(
    "crop aspect", {"square": square, "preserve": preserved, "closest": closest, "random": drawn}
)

INTERPOLATIONS: Choice[Interpolation] = Choice(
    "interpolation",
    {
        "lanczos": Interpolation("Sharp, for photographs and drawings alike.", "lanczos"),
        "bicubic": Interpolation("A little softer than lanczos.", "bicubic"),
        "cubic": Interpolation("Another name of bicubic.", "bicubic"),
        "bilinear": Interpolation("Softer than bicubic, without any bright or dark rims.", "bilinear"),
        "linear": Interpolation("Another name of bilinear.", "bilinear"),
        "area": Interpolation("The mean of the pixels that fall together.", "area"),
        "box": Interpolation("Another name of area.", "area"),
        "nearest": Interpolation("Keeps the colours of single pixels, for pixel art.", "nearest"),
        "auto": Interpolation("Area for smaller, lanczos for larger, as in sd-scripts.", "area", enlarging="lanczos"),
    },
)

_DEFAULTS = Rules()
_KOHYA_STEP = 32
