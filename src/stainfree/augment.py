"""Batches: the data set is one tensor in its stored dtype, and whole batches are cropped, flipped and normalised.

No image is touched by Python on its own, and no worker process copies anything: a minibatch is picked from the tensor,
cut and flipped in a few large operations, and turned into float32 in the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Above this many cells per distinct view, picking views group by group beats one large gather on a CPU.
_CELLS_PER_GROUP = 4
# Cells that are cut, flipped and normalised at once on a CPU: 1 MiB of float32, so that all of it stays in cache.
_CELLS_AT_ONCE = 64


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


def random_views(
    n: int, shape: tuple[int, int], *, crop: int | None, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw for each of `n` images the crop's top and left, and whether it is flipped upside down and left to right.

    Drawn on the CPU whatever the device, so that a seed means the same views everywhere.
    """
    room = (shape[0] - crop + 1, shape[1] - crop + 1) if crop is not None else (1, 1)
    top = torch.randint(room[0], (n,), generator=generator)
    left = torch.randint(room[1], (n,), generator=generator)
    flips = torch.randint(2, (2, n), generator=generator) if flip else torch.zeros((2, n), dtype=torch.int64)
    return top, left, flips[0].bool(), flips[1].bool()


def augmented_batch(
    images: Tensor,
    rows: Tensor,
    *,
    crop: int | None,
    flip: bool,
    normalisation: Normalisation,
    generator: torch.Generator,
    memory: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a training batch: a random crop and flip of the images at `rows`, normalised.

    Parameters
    ----------
    images
        (N, channel, y, x) in the stored dtype, on the training device.
    rows
        (n,) int64 positions of the batch's cells.
    crop
        Side of the random crop; None for none.
    flip
        Whether to flip in both directions, each with probability 0.5.
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
    """
    height, width = images.shape[2:]
    side = (crop, crop) if crop is not None else (height, width)
    top, left, upside_down, mirrored = random_views(
        len(rows), (height, width), crop=crop, flip=flip, generator=generator
    )
    view = ((top * width + left) * 2 + upside_down) * 2 + mirrored
    order = torch.argsort(view, stable=True)
    rows, view = rows[order], view[order]
    views, counts = torch.unique_consecutive(view, return_counts=True)
    if memory is None:
        memory = torch.empty((len(rows), images.shape[1], *side), dtype=torch.float32, device=images.device)
    out = memory[: len(rows)]
    mean, scale = normalisation.tensors(images.device)
    if images.device.type == "cpu" and len(views) * _CELLS_PER_GROUP <= max(len(rows), _CELLS_PER_GROUP):
        start = 0
        for key, count in zip(views.tolist(), counts.tolist(), strict=True):
            corner, flips = divmod(key, 4)
            y, x = divmod(corner, width)
            axes = [axis for axis, wanted in ((2, flips & 2), (3, flips & 1)) if wanted]
            for first in range(start, start + count, _CELLS_AT_ONCE):
                chunk = slice(first, min(first + _CELLS_AT_ONCE, start + count))
                block = images.index_select(0, rows[chunk])[:, :, y : y + side[0], x : x + side[1]]
                out[chunk].copy_(_flip(block, axes)).sub_(mean).mul_(scale)
            start += count
    else:
        _gather(images, rows, top[order], left[order], upside_down[order], mirrored[order], out)
        out.sub_(mean).mul_(scale)
    return out, rows


def _flip(images: Tensor, axes: list[int]) -> Tensor:
    """Return `images` flipped along `axes`."""
    if not axes:
        return images
    if images.dtype == torch.uint16:  # torch flips signed numbers four times as fast, and a flip changes no bits
        return images.view(torch.int16).flip(axes).view(torch.uint16)
    return images.flip(axes)


def _gather(
    images: Tensor, rows: Tensor, top: Tensor, left: Tensor, upside_down: Tensor, mirrored: Tensor, out: Tensor
) -> None:
    """Fill `out` (n, channel, h, w) by one gather in which each cell has pixel coordinates of its own."""
    height, width = out.shape[2:]
    y = torch.arange(height).expand(len(rows), -1)
    x = torch.arange(width).expand(len(rows), -1)
    y = top[:, None] + torch.where(upside_down[:, None], height - 1 - y, y)
    x = left[:, None] + torch.where(mirrored[:, None], width - 1 - x, x)
    device = images.device
    channel = torch.arange(images.shape[1], device=device)[None, :, None, None]
    out.copy_(
        images[
            rows.to(device)[:, None, None, None],
            channel,
            y.to(device)[:, None, :, None],
            x.to(device)[:, None, None, :],
        ]
    )
