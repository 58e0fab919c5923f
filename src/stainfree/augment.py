"""Batches: the data set is one tensor in its stored dtype, and whole batches are cut, turned, blurred and normalised.

No image is touched by Python on its own, and no worker process copies anything: a minibatch is picked from the tensor
and augmented in a few large operations. All that chance decides is drawn on the CPU, whatever the device, so that a
seed means the same views everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stainfree.errors import ConfigError, DataError

# Above this many cells per distinct view, picking views group by group beats one large gather on a CPU.
_CELLS_PER_GROUP = 4
# Cells that are cut, flipped and normalised at once on a CPU: 1 MiB of float32, so that all of it stays in cache.
_CELLS_AT_ONCE = 64


TURNS = ("none", "quarter", "any")
"""How training images may be rotated."""


@dataclass(frozen=True)
class Augmentation:
    """What chance may change about a training image besides where the crop is cut."""

    flip: bool = False
    """Flip upside down and left to right, each with probability 0.5."""
    rotate: str = "none"
    """``quarter``: by a multiple of 90 degrees, which moves pixels and changes none. ``any``: by any angle about the
    centre of the crop, with values between pixels (bilinear); what comes into the corners are the surroundings of the
    crop in the stored image, and beyond it its edge values."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels; drawn for each cell evenly between 0 and it."""
    gain: float = 0.0
    """Largest relative change of a channel's contrast about its mean over the training cells, below 1; drawn for each
    cell and channel evenly between both signs of it."""
    offset: float = 0.0
    """Largest shift of a channel, in standard deviations over the training cells; drawn like `gain`."""

    def __post_init__(self) -> None:
        if self.rotate not in TURNS:
            raise ConfigError(f"augmentation: `rotate` is {self.rotate!r}, and must be one of {', '.join(TURNS)}")
        for name in ("blur", "gain", "offset"):
            value = getattr(self, name)
            if not 0 <= value < (1 if name == "gain" else math.inf):
                most = " and below 1" if name == "gain" else ""
                raise ConfigError(f"augmentation: `{name}` is {value}, and must be at least 0{most}")


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel over a fold's training cells, in camera counts."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor, rows: Tensor, *, batch: int = 2048) -> Normalisation:
        """Measure it on `images` (n, channel, y, x) at `rows`, batch by batch, in float64."""
        count = 0
        total = torch.zeros(images.shape[1], dtype=torch.float64, device=images.device)
        square = torch.zeros_like(total)
        for start in range(0, len(rows), batch):
            block = images[rows[start : start + batch].to(images.device)].to(torch.float64)
            total += block.sum(dim=(0, 2, 3))
            square += (block**2).sum(dim=(0, 2, 3))
            count += block.numel() // block.shape[1]
        mean = total / count
        # A channel of one value has no spread; dividing by 1 leaves it at 0.
        variance = (square / count - mean**2).clamp(min=0)
        std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and scale, (channel, 1, 1) float32 each; to multiply takes half as long as to divide."""
        mean = torch.tensor(self.mean, device=device)[:, None, None]
        return mean, torch.tensor([1 / std for std in self.std], device=device)[:, None, None]

    def apply(self, x: Tensor) -> Tensor:
        """Normalise `x` (n, channel, y, x) float32 in place."""
        mean, scale = self.tensors(x.device)
        return x.sub_(mean).mul_(scale)


def centre_batch(images: Tensor, rows: Tensor, *, crop: int | None, normalisation: Normalisation) -> Tensor:
    """Return (n, channel, crop, crop) float32: the centre of the images at `rows`, normalised."""
    height, width = images.shape[2:]
    side = (crop, crop) if crop is not None else (height, width)
    above, left = (height - side[0]) // 2, (width - side[1]) // 2
    batch = torch.empty((len(rows), images.shape[1], *side), dtype=torch.float32, device=images.device)
    at_once = _CELLS_AT_ONCE if images.device.type == "cpu" else max(1, len(rows))
    for out, chunk in zip(batch.split(at_once), rows.to(images.device).split(at_once), strict=True):
        normalisation.apply(out.copy_(images[chunk][:, :, above : above + side[0], left : left + side[1]]))
    return batch


@dataclass(frozen=True)
class Views:
    """How each of n images is seen: where the crop is cut from it, and how it is turned. All fields are (n,)."""

    top: Tensor
    left: Tensor
    """First row and column of the crop, int64."""
    transposed: Tensor
    """Whether rows and columns of the crop change places, bool."""
    upside_down: Tensor
    mirrored: Tensor
    """Whether it is flipped along y and along x, after that, bool."""
    angle: Tensor | None
    """Free rotation before the flips, in radians, counterclockwise on a screen, float32; None for none."""

    @classmethod
    def draw(
        cls,
        n: int,
        shape: tuple[int, int],
        *,
        crop: int | None,
        augmentation: Augmentation,
        generator: torch.Generator,
    ) -> Views:
        """Draw them for images of `shape` (y, x), from a CPU generator."""
        room = (shape[0] - crop + 1, shape[1] - crop + 1) if crop is not None else (1, 1)
        top = torch.randint(room[0], (n,), generator=generator)
        left = torch.randint(room[1], (n,), generator=generator)
        none = torch.zeros((2, n), dtype=torch.bool)
        flips = torch.randint(2, (2, n), generator=generator).bool() if augmentation.flip else none
        quarters = torch.randint(4, (n,), generator=generator) if augmentation.rotate == "quarter" else None
        angle = torch.rand(n, generator=generator) * (2 * math.pi) if augmentation.rotate == "any" else None
        if quarters is None:
            return cls(top, left, none[0], flips[0], flips[1], angle)
        # A quarter turn is a transposition and a flip, and two of them are both flips.
        upside_down = flips[0] ^ ((quarters == 1) | (quarters == 2))
        mirrored = flips[1] ^ (quarters >= 2)
        return cls(top, left, quarters % 2 == 1, upside_down, mirrored, angle)

    def keys(self, width: int) -> Tensor:
        """Return (n,) int64 that are equal where all but the angle is, for images `width` pixels wide."""
        corner = self.top * width + self.left
        return ((corner * 2 + self.upside_down) * 2 + self.mirrored) * 2 + self.transposed

    def at(self, order: Tensor) -> Views:
        """Return those of the images at the positions `order`."""
        angle = None if self.angle is None else self.angle[order]
        return Views(
            self.top[order],
            self.left[order],
            self.transposed[order],
            self.upside_down[order],
            self.mirrored[order],
            angle,
        )


def augmented_batch(
    images: Tensor,
    rows: Tensor,
    *,
    crop: int | None,
    augmentation: Augmentation,
    normalisation: Normalisation,
    generator: torch.Generator,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a training batch: a random view of the images at `rows`, normalised.

    Parameters
    ----------
    images
        (N, channel, y, x) in the stored dtype, on the training device.
    rows
        (n,) int64 positions of the batch's cells.
    crop
        Side of the random crop; None for none.
    augmentation
        What else chance may change.
    generator
        A CPU generator.
    memory
        (n or more, channel, crop, crop) float32 on the device of `images`, where the batch is written; new memory where
        None. To take it again for each batch halves the time, most of which fresh pages would take.

    Returns
    -------
    batch
        (n, channel, crop, crop) float32.
    rows
        (n,) the cells in the batch's order: cells with the same view stand together, since order inside a
        minibatch means nothing to training and whole groups are cut at once.

    Raises
    ------
    DataError
        If quarter turns are asked for of what is not square.
    """
    height, width = images.shape[2:]
    side = (crop, crop) if crop is not None else (height, width)
    if augmentation.rotate == "quarter" and side[0] != side[1]:
        raise DataError(f"images of {height} x {width} pixels have no quarter turns; set `rotate` to any, or a crop")
    n, device = len(rows), images.device
    drawn = Views.draw(n, (height, width), crop=crop, augmentation=augmentation, generator=generator)
    order = torch.argsort(drawn.keys(width), stable=True)
    rows, drawn = rows[order], drawn.at(order)
    if memory is None:
        memory = torch.empty((n, images.shape[1], *side), dtype=torch.float32, device=device)
    out = memory[:n]
    mean, scale = normalisation.tensors(device)
    if drawn.angle is not None:
        _rotate(images, rows, drawn, out)
        out.sub_(mean).mul_(scale)
    else:
        key, counts = torch.unique_consecutive(drawn.keys(width), return_counts=True)
        if device.type == "cpu" and len(key) * _CELLS_PER_GROUP <= max(n, _CELLS_PER_GROUP):
            _cut_groups(images, rows, drawn, counts.tolist(), mean, scale, out)
        else:
            _gather(images, rows, drawn, out)
            out.sub_(mean).mul_(scale)
    if augmentation.blur:
        _blur(out, torch.rand(n, generator=generator) * augmentation.blur)
    if augmentation.gain:
        out.mul_(1 + _around_zero(augmentation.gain, out, generator))
    if augmentation.offset:
        out.add_(_around_zero(augmentation.offset, out, generator))
    return out, rows


def views(batch: Tensor) -> Tensor:
    """Return (8, n, channel, y, x): the square images of `batch`, turned by each quarter turn, and the same mirrored.

    These are all views that move pixels and change none; the first is the batch itself. A prediction averaged over
    them does not depend on how a cell lay.
    """
    turned = [torch.rot90(batch, quarter, (2, 3)) for quarter in range(4)]
    return torch.stack([*turned, *(view.flip(3) for view in turned)])


def _around_zero(most: float, batch: Tensor, generator: torch.Generator) -> Tensor:
    """Draw (n, channel, 1, 1) evenly between -`most` and `most`."""
    drawn = torch.rand(batch.shape[:2], generator=generator) * 2 - 1
    return (drawn * most)[:, :, None, None].to(batch.device)


def _at_once(device: torch.device, n: int) -> int:
    """Return how many of n cells are worked on at once."""
    return _CELLS_AT_ONCE if device.type == "cpu" else max(1, n)


def _signed(images: Tensor) -> Tensor:
    """View uint16 as int16, which torch moves several times as fast or at all; no bit changes."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images


def _cut_groups(
    images: Tensor, rows: Tensor, views: Views, counts: list[int], mean: Tensor, scale: Tensor, out: Tensor
) -> None:
    """Fill `out` (n, channel, h, w) with normalised views; `counts` cells that follow each other share one."""
    height, width = out.shape[2:]
    start = 0
    for count in counts:
        y, x = int(views.top[start]), int(views.left[start])
        axes = [axis for axis, flips in ((2, views.upside_down), (3, views.mirrored)) if flips[start]]
        for first in range(start, start + count, _CELLS_AT_ONCE):
            chunk = slice(first, min(first + _CELLS_AT_ONCE, start + count))
            block = _signed(images.index_select(0, rows[chunk])[:, :, y : y + height, x : x + width])
            if views.transposed[start]:
                block = block.transpose(2, 3)
            block = block.flip(axes) if axes else block
            out[chunk].copy_(block.view(images.dtype)).sub_(mean).mul_(scale)
        start += count


def _gather(images: Tensor, rows: Tensor, views: Views, out: Tensor) -> None:
    """Fill `out` (n, channel, h, w) by one gather in which each cell has pixel positions of its own.

    Rows and columns of any view are equal steps through the stored image, which need not be known one by one.
    """
    (height, width), stored_width = out.shape[2:], images.shape[3]
    step_y = torch.where(views.transposed, 1, stored_width) * torch.where(views.upside_down, -1, 1)
    step_x = torch.where(views.transposed, stored_width, 1) * torch.where(views.mirrored, -1, 1)
    first = views.top * stored_width + views.left
    first = first - (step_y.clamp(max=0) * (height - 1) + step_x.clamp(max=0) * (width - 1))
    at_once = _at_once(images.device, len(rows))
    for chunk, *told in zip(*(each.split(at_once) for each in (out, rows, first, step_y, step_x)), strict=True):
        cells, start, down, right = (each.to(images.device)[:, None] for each in told)
        row_starts = start + down * torch.arange(height, device=images.device)
        positions = row_starts[:, :, None] + (right * torch.arange(width, device=images.device))[:, None]
        stored = _signed(images[cells[:, 0]].flatten(2))
        pixels = stored.gather(2, positions.flatten(1)[:, None].expand(-1, stored.shape[1], -1))
        chunk.copy_(pixels.view(images.dtype).view_as(chunk))


def _rotate(images: Tensor, rows: Tensor, views: Views, out: Tensor) -> None:
    """Fill `out` (n, channel, h, w) with views at a free angle, bilinear.

    Beyond the stored image its edge goes on: mirrored there, the cell itself would appear again in the corners.
    """
    assert views.angle is not None
    (height, width), (stored_height, stored_width) = out.shape[2:], images.shape[2:]
    cosine, sine = views.angle.cos(), views.angle.sin()
    y_sign, x_sign = torch.where(views.upside_down, -1.0, 1.0), torch.where(views.mirrored, -1.0, 1.0)
    # Positions as `grid_sample` counts them: -1 and 1 are the middles of the first and the last pixel.
    in_y, in_x = max(1, stored_height - 1), max(1, stored_width - 1)
    map_x = (cosine * x_sign * (width - 1), -sine * y_sign * (height - 1), 2.0 * views.left + (width - 1) - in_x)
    map_y = (sine * x_sign * (width - 1), cosine * y_sign * (height - 1), 2.0 * views.top + (height - 1) - in_y)
    maps = torch.stack([torch.stack(map_x, dim=1) / in_x, torch.stack(map_y, dim=1) / in_y], dim=1)  # (n, 2, 3)
    device = images.device
    at_once = _at_once(device, len(rows))
    for chunk, cells, affine in zip(
        out.split(at_once), rows.to(device).split(at_once), maps.to(device).split(at_once), strict=True
    ):
        grid = F.affine_grid(affine, list(chunk.shape), align_corners=True)
        stored = images[cells].to(torch.float32)
        chunk.copy_(F.grid_sample(stored, grid, mode="bilinear", padding_mode="border", align_corners=True))


def _blur(batch: Tensor, deviations: Tensor) -> None:
    """Blur `batch` (n, channel, y, x) in place by Gaussians of `deviations` (n,) pixels, cut off at its edge."""
    at_once = _at_once(batch.device, len(batch))
    # As large as a blur of nothing needs: exp(-distance**2 / 2e-6) is 0 one pixel away.
    widths = deviations.clamp(min=1e-3).to(batch.device)
    for chunk, width in zip(batch.split(at_once), widths.split(at_once), strict=True):
        down, across = (_gaussians(width, side)[:, None] for side in chunk.shape[2:])
        chunk.copy_(down @ chunk @ across.transpose(2, 3))


def _gaussians(deviations: Tensor, side: int) -> Tensor:
    """Return (n, side, side): what each place of a line takes of the others; it sums to 1, at the line's end too."""
    place = torch.arange(side, device=deviations.device)
    distance = (place[:, None] - place).to(torch.float32)
    return torch.softmax(-(distance**2) / (2 * deviations[:, None, None] ** 2), dim=2)
