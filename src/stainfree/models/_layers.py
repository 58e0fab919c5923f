"""Layers that several families share.

Some compute in one go what ``torch.nn`` computes layer by layer, with the same parameters, outputs and gradients:
training on a CPU waits for memory more than for arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Elements of a feature map that are worked on at once: 4 MiB of float32, which a core's cache holds.
_CHUNK = 2**20
# Elements of the feature maps that are kept for the way back: 256 MiB of float32. More of them are computed again.
_KEPT = 2**26
_one_by_one: ContextVar[bool] = ContextVar("one_by_one", default=False)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Call every layer by itself inside this block, so that hooks on single layers see them all."""
    token = _one_by_one.set(True)
    try:
        yield
    finally:
        _one_by_one.reset(token)


def called_one_by_one() -> bool:
    """Return whether `one_by_one` is in force."""
    return _one_by_one.get()


def copies_of(channels: int) -> int:
    """Return how often a network for colour pictures repeats its input: a grey image fills three equal channels."""
    return 3 if channels == 1 else 1


def _channels_last(kernel: Tensor) -> Tensor:
    """Lay out (out, in, y, x) with channels last, and say so in the strides even of a single input channel.

    torch takes the layout of a convolution's output from these strides, and reads those of one channel as channels
    first; max-pool and batch norm of such a map take several times as long.
    """
    return kernel.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)


class RepeatedConv2d(nn.Conv2d):
    """A convolution over `copies` equal copies of its input, computed on one of them.

    Convolution is linear, so over equal channels it is the convolution with the sum of their kernels: same
    parameters, same outputs and same gradients as on the repeated image, a third of the arithmetic.

    Parameters
    ----------
    channels, out_channels, kernel_size
        As in ``torch.nn.Conv2d``; the weights have ``copies * channels`` input channels.
    copies
        How many times the input stands side by side on the channel axis.
    """

    def __init__(
        self, channels: int, out_channels: int, kernel_size: int, *, copies: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(copies * channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.copies = copies

    def kernel(self) -> Tensor:
        """Return (out_channels, channels, y, x): the sum of the copies' kernels."""
        return self.weight.unflatten(1, (self.copies, -1)).sum(1)

    def forward(self, input: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, out_channels, y', x')."""
        return F.conv2d(input, _channels_last(self.kernel()), self.bias, stride=self.stride, padding=self.padding)


class RepeatedLinear(nn.Linear):
    """A linear layer over `copies` equal copies of its input, computed on one of them (see `RepeatedConv2d`)."""

    def __init__(self, in_features: int, out_features: int, *, copies: int) -> None:
        super().__init__(copies * in_features, out_features)
        self.copies = copies

    def forward(self, input: Tensor) -> Tensor:
        """Map (n, in_features) to (n, out_features)."""
        return F.linear(input, self.weight.unflatten(1, (self.copies, -1)).sum(1), self.bias)


def _cells_per_chunk(channels: int, height: int, width: int) -> int:
    """Return how many cells' feature maps make a chunk."""
    return max(1, _CHUNK // (channels * height * width))


def _rows(maps: Tensor) -> Tensor:
    """View (n, c, h, w) in channels-last layout as (n * h, w * c): long rows fill vector units at few channels too."""
    n, channels, height, width = maps.shape
    return maps.permute(0, 2, 3, 1).view(n * height, width * channels)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Return the convolution of `x` in channels-last layout."""
    return F.conv2d(x, kernel, bias, padding=padding).contiguous(memory_format=torch.channels_last)


def _joint_moments(parts: list[tuple[Tensor, Tensor]], cells: list[int]) -> tuple[Tensor, Tensor]:
    """Join the means and variances (w, c) of chunks of so many `cells` to those (c,) of all, in float64.

    Source: Chan, Golub, LeVeque 1983, The American Statistician 37: no large squares are subtracted, nothing cancels.
    """
    means, variances = (torch.stack(moment).double() for moment in zip(*parts, strict=True))  # (chunk, w, c)
    share = means.new_tensor(cells)[:, None, None] / (sum(cells) * means.shape[1])
    mean = (share * means).sum((0, 1))
    return mean, (share * (variances + (means - mean) ** 2)).sum((0, 1))


class ConvNormPool(torch.autograd.Function):
    """Convolution with 'same' padding, batch norm over the batch with no weight below 0, max-pool: all at once.

    Such a norm keeps the order of values, so the largest ones are picked from the convolution's output y, and only
    they are normalised. With M values of y in a channel, z = (y - mean) / std, and g the gradient of the pooled map,
    that of y is

        weight / std * (g where y was the largest of its window - (sum(g) + z sum(g z)) / M)

    (Ioffe, Szegedy 2015, section 3; the sums run over the pooled map alone, since g is 0 elsewhere). All is done in
    chunks of cells that fit the cache. Of the large maps only y is kept; where it is too large to keep, it is computed
    twice. Where several values of a window are the largest, g goes to the first of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor,
        weight: Tensor,
        shift: Tensor,
        padding: int,
        pool: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the block.

        Parameters
        ----------
        x
            (n, in, h, w).
        kernel, bias
            (out, in, k, k) and (out,) of the convolution.
        weight, shift
            (out,) of the norm; no weight below 0.
        padding, pool, eps
            Of the convolution, the max-pool and the norm.

        Returns
        -------
        pooled
            (n, out, h // pool, w // pool).
        mean, variance
            (out,) of y over the batch, the variance divided by M; neither has a gradient.
        """
        height, width = x.shape[2:]
        channels = len(weight)
        cells = _cells_per_chunk(channels, height, width)
        kernel = _channels_last(kernel)
        pooled = x.new_empty((len(x), height // pool, width // pool, channels)).permute(0, 3, 1, 2)
        keep = len(x) * channels * height * width <= _KEPT
        maps: list[Tensor | None] = []
        where, moments = [], []
        for chunk, out in zip(x.split(cells), pooled.split(cells), strict=True):
            y = _convolve(chunk, kernel, bias, padding)
            largest, position = F.max_pool2d(y, pool, return_indices=True)
            out.copy_(largest)
            maps.append(y if keep else None)
            where.append(position)
            of_rows = torch.batch_norm_update_stats(_rows(y), None, None, 0.0)
            moments.append((of_rows[0].view(width, channels), of_rows[1].view(width, channels)))
        mean, variance = (m.to(x.dtype) for m in _joint_moments(moments, [len(position) for position in where]))
        scale = (variance + eps).rsqrt()
        normal = pooled.sub_(mean[:, None, None]).mul_(scale[:, None, None])
        ctx.save_for_backward(x, kernel, bias, weight, mean, scale, normal, *maps, *where)
        ctx.settings = cells, padding, pool
        ctx.mark_non_differentiable(mean, variance)
        return normal * weight[:, None, None] + shift[:, None, None], mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, kernel, bias (0: the norm takes any constant away), weight and shift."""
        x, kernel, bias, weight, mean, scale, normal, *kept = ctx.saved_tensors
        maps, where = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        cells, padding, pool = ctx.settings
        of_shift = gradient.sum((0, 2, 3))
        of_weight = (gradient * normal).sum((0, 2, 3))
        # The gradient of y is slope * y + offset, and `at_largest` more where y was the largest of its window.
        height, width = x.shape[2:]
        at_largest = gradient * (weight * scale)[:, None, None]
        slope = -weight * scale**2 * of_weight / (len(x) * height * width)
        offset = -weight * scale * of_shift / (len(x) * height * width) - slope * mean
        slope, offset = slope.repeat(width), offset.repeat(width)  # for all rows of a map

        of_kernel = torch.zeros_like(kernel)
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for index, y in enumerate(maps):
            chunk = slice(index * cells, (index + 1) * cells)
            if y is None:
                y = _convolve(x[chunk], kernel, bias, padding)
            of_y = torch.ops.aten.max_pool2d_with_indices_backward(
                at_largest[chunk], y, [pool, pool], [pool, pool], [0, 0], [1, 1], False, where[index]
            )
            _rows(of_y).addcmul_(_rows(y), slope).add_(offset)
            of_chunk, of_kernel_here, _ = torch.ops.aten.convolution_backward(
                of_y, x[chunk], kernel, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1,
                [of_x is not None, True, False],
            )  # fmt: skip
            of_kernel += of_kernel_here
            if of_x is not None:
                of_x[chunk] = of_chunk
        return of_x, of_kernel, torch.zeros_like(bias), of_weight, of_shift, None, None, None


class ConvBlock(nn.Module):
    """Convolution with 'same' padding, batch norm, max-pool, ReLU.

    ReLU and max-pool commute, and after pooling there is less to rectify: the outputs and gradients are those of
    the usual order.
    """

    def __init__(self, channels: int, out_channels: int, kernel_size: int, *, pool: int, copies: int = 1) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.conv = RepeatedConv2d(channels, out_channels, kernel_size, copies=copies, padding=self.padding)
        self.norm = nn.BatchNorm2d(out_channels)
        self.pool = nn.MaxPool2d(pool)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, out_channels, y // pool, x // pool)."""
        if called_one_by_one() or x.device.type != "cpu":
            return self.relu(self.pool(self.norm(self.conv(x))))
        return self.relu(self._train(x) if self.training else self._evaluate(x))

    def _running(self) -> tuple[Tensor, Tensor]:
        """Return the norm's running mean and variance, each (out_channels,)."""
        return cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)

    def _train(self, x: Tensor) -> Tensor:
        """Normalise by the batch at hand, and count it in the running statistics."""
        norm = self.norm
        # A weight below 0 turns the order of values round: mirrored kernels make the largest of the smallest.
        mirror = torch.where(norm.weight < 0, -1.0, 1.0)
        pooled, mean, variance = ConvNormPool.apply(
            x,
            self.conv.kernel() * mirror[:, None, None, None],
            cast(Tensor, self.conv.bias) * mirror,
            norm.weight * mirror,
            norm.bias,
            self.padding,
            self.pool.kernel_size,
            norm.eps,
        )
        values = len(x) * x.shape[2] * x.shape[3]
        running_mean, running_variance = self._running()
        momentum = cast(float, norm.momentum)
        running_mean.lerp_(mean * mirror, momentum)
        running_variance.lerp_(variance * values / (values - 1), momentum)
        cast(Tensor, norm.num_batches_tracked).add_(1)
        return pooled

    def _evaluate(self, x: Tensor) -> Tensor:
        """Normalise by the running statistics, which make the norm a part of the convolution."""
        running_mean, running_variance = self._running()
        scale = self.norm.weight * (running_variance + self.norm.eps).rsqrt()
        kernel = _channels_last(self.conv.kernel() * scale[:, None, None, None])
        bias = (cast(Tensor, self.conv.bias) - running_mean) * scale + self.norm.bias
        cells = _cells_per_chunk(len(scale), *x.shape[2:])
        chunks = [self.pool(F.conv2d(chunk, kernel, bias, padding=self.padding)) for chunk in x.split(cells)]
        return torch.cat(chunks)
