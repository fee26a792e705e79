"""One layer of a file against several of diffusers: taken apart and joined without changing what it adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from simpletuner.errors import ModelError
from simpletuner.models.adapters.formats.names import Place
from simpletuner.models.adapters.formats.neutral import LowRank, scaled

if TYPE_CHECKING:
    from torch import Tensor


def split(layer: LowRank, place: Place) -> dict[str, LowRank]:
    """A layer of a file as layers of diffusers."""
    import torch

    if place.is_swapped:
        layer = _swapped(layer)
    if len(place.parts) == 1:
        return {place.parts[0]: layer}
    sizes = _sizes(layer.up.shape[0], place)
    ups = torch.split(layer.up, sizes)
    magnitudes = [None] * len(sizes) if layer.magnitude is None else torch.split(layer.magnitude, sizes)
    parts = zip(place.parts, ups, magnitudes, _own_columns(ups), strict=True)
    return {
        part: _cut(layer, up, magnitude, own)
        for part, up, magnitude, own in parts
        # With DoRA a part without weights has lengths still.
        if own is None or len(own) or magnitude is not None
    }


def _sizes(rows: int, place: Place) -> list[int]:
    if rows % sum(place.shares):
        raise ModelError(
            f"the adapter has {rows} rows where {', '.join(place.parts)} are joined, which cannot be divided among "
            f"them. It was made for another model."
        )
    return [rows // sum(place.shares) * share for share in place.shares]


def _own_columns(ups: Sequence[Tensor]) -> list[Tensor | None]:
    """Which columns each part alone uses; nothing where it uses them all together with others."""
    import torch

    used = torch.stack([up.ne(0).any(dim=0) for up in ups])
    count, rank = used.shape
    if not used.any():
        return [None] * count
    if rank % count == 0:
        even = torch.eye(count, dtype=torch.bool).repeat_interleave(rank // count, dim=1)
        if not (used.cpu() & ~even).any():
            return [row.nonzero().flatten() for row in even]
    if (used.sum(dim=0) <= 1).all():
        return [row.nonzero().flatten() for row in used]
    # A part without any weight was not trained; the others share the matrix A.
    return [None if row.any() else row.nonzero().flatten() for row in used]


def _cut(layer: LowRank, up: Tensor, magnitude: Tensor | None, own: Tensor | None) -> LowRank:
    if own is None or not len(own):
        return LowRank(layer.down, up.contiguous(), layer.alpha, magnitude)
    own = own.to(up.device)
    return LowRank(
        layer.down[own].contiguous(), up[:, own].contiguous(), layer.alpha * len(own) / layer.rank, magnitude
    )


def fuse(layers: Mapping[str, LowRank], place: Place) -> LowRank:
    """Layers of diffusers as the one layer of a file; parts that are missing add nothing there."""
    if len(place.parts) == 1:
        only = layers[place.parts[0]]
        return _swapped(only) if place.is_swapped else only
    sizes = _sizes_of(layers, place)
    found = [layers.get(part) for part in place.parts]
    down, ups, alpha = _shared(found) or _stacked(found)
    joined = _below_each_other(ups, sizes)
    return LowRank(down, joined, alpha, _magnitude(found, place))


def _sizes_of(layers: Mapping[str, LowRank], place: Place) -> list[int]:
    shares = dict(zip(place.parts, place.shares, strict=True))
    units = {one.up.shape[0] / shares[part] for part, one in layers.items()}
    if len(units) > 1:
        raise ModelError(
            f"{', '.join(layers)} have outputs of sizes that do not belong to one Flux block, so that they cannot be "
            f"joined. Use the diffusers format."
        )
    return [int(units.copy().pop() * share) for share in place.shares]


_Joined = tuple["Tensor", "list[Tensor | None]", float]


def _shared(found: Sequence[LowRank | None]) -> _Joined | None:
    """All parts have the same A and alpha: it is kept once."""
    present = [one for one in found if one]
    first = present[0]
    if any(one.alpha != first.alpha or not _equal(one.down, first.down) for one in present):
        return None
    return first.down, [one.up if one else None for one in found], first.alpha


def _stacked(found: Sequence[LowRank | None]) -> _Joined:
    """Every part keeps an A of its own: they stand below each other, and the B's side by side."""
    import torch

    present = [one for one in found if one]
    rank = sum(one.rank for one in present)
    same_scale = len({one.scale for one in present}) == 1
    ups: list[Tensor | None] = []
    before = 0
    for one in found:
        if one is None:
            ups.append(None)
            continue
        up = one.up if same_scale else scaled(one.up, one.scale)
        ups.append(torch.nn.functional.pad(up, (before, rank - before - one.rank)))
        before += one.rank
    alpha = present[0].alpha * rank / present[0].rank if same_scale else float(rank)
    return torch.cat([one.down for one in present]), ups, alpha


def _below_each_other(ups: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
    import torch

    like = next(up for up in ups if up is not None)
    rows = [like.new_zeros(size, like.shape[1]) if up is None else up for up, size in zip(ups, sizes, strict=True)]
    return torch.cat(rows)


def _magnitude(found: Sequence[LowRank | None], place: Place) -> Tensor | None:
    import torch

    parts = [one.magnitude for one in found if one and one.magnitude is not None]
    if parts and len(parts) < len(place.parts):
        raise ModelError(
            f"only some of {', '.join(place.parts)} have an adapter with DoRA, and this format joins them. Use the "
            f"diffusers format, or train all of them."
        )
    return torch.cat(parts) if parts else None


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())


def _swapped(layer: LowRank) -> LowRank:
    magnitude = None if layer.magnitude is None else _halves_swapped(layer.magnitude)
    return LowRank(layer.down, _halves_swapped(layer.up), layer.alpha, magnitude)


def _halves_swapped(rows: Tensor) -> Tensor:
    return rows.roll(rows.shape[0] // 2, dims=0)
