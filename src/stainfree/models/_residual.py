"""Residual networks: blocks of convolutions with a way around them.

Source: He et al. 2016, "Deep residual learning for image recognition" (arXiv 1512.03385).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from stainfree.models._classifier import Classifier


def conv_norm(channels: int, width: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution with 'same' padding and no bias, and the batch norm that makes a bias useless."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(width),
    )


class Basic(nn.Sequential):
    """Two 3 x 3 convolutions: (n, channels, y, x) to (n, width, y / stride, x / stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__(
            conv_norm(channels, width, 3, stride=stride), nn.ReLU(inplace=True), conv_norm(width, width, 3)
        )


class Bottleneck(nn.Sequential):
    """A 3 x 3 convolution between two of 1 x 1: (n, channels, y, x) to (n, 4 width, y / stride, x / stride)."""

    expansion = 4

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__(
            conv_norm(channels, width, 1),
            nn.ReLU(inplace=True),
            conv_norm(width, width, 3, stride=stride),
            nn.ReLU(inplace=True),
            conv_norm(width, width * self.expansion, 1),
        )


class Subsample(nn.Identity):
    """The way around a block without parameters: every `stride`-th pixel, and maps of zeros for new channels.

    Source: He et al., section 3.3, option A; it is the identity where the shape stays.
    """

    def __init__(self, new_channels: int, *, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, channels + new_channels, y / stride, x / stride)."""
        return F.pad(input[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def no_skip(channels: int, out_channels: int, *, stride: int) -> None:
    """Return the way around a plain block: there is none."""


def subsample(channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """Return the way around a block that has no parameters (option A)."""
    return nn.Identity() if stride == 1 else Subsample(out_channels - channels, stride=stride)


def project(channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """Return the way around a block that is a 1 x 1 convolution where the shape changes (option B)."""
    if (channels, stride) == (out_channels, 1):
        return nn.Identity()
    return conv_norm(channels, out_channels, 1, stride=stride)


class Block(nn.Module):
    """A body of convolutions, the way around it added where there is one, and ReLU."""

    def __init__(self, body: nn.Module, skip: nn.Module | None) -> None:
        super().__init__()
        self.body = body
        self.skip = skip
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to what `body` makes of it."""
        out = self.body(x)
        return self.relu(out if self.skip is None else out + self.skip(x))


class ResNet(Classifier):
    """A stem, stages of blocks each half as wide in pixels and twice in channels, the mean over the image, a head.

    Parameters
    ----------
    stem
        Layers before the blocks: an image to `width` maps.
    width
        Channels of the first stage's bodies; each further stage has twice those before it.
    blocks
        Number of blocks of each stage.
    body
        What a block is made of.
    skip
        Makes the way around a block of its channels, output channels and stride.
    n_classes
        Size of the output.
    """

    def __init__(
        self,
        stem: nn.Module,
        *,
        width: int,
        blocks: Sequence[int],
        body: type[Basic] | type[Bottleneck],
        skip: Callable[..., nn.Module | None],
        n_classes: int,
    ) -> None:
        stages = nn.Sequential()
        channels = width
        for stage, times in enumerate(blocks):
            inner = width * 2**stage
            for block in range(times):
                stride = 2 if stage > 0 and block == 0 else 1
                out_channels = inner * body.expansion
                stages.append(Block(body(channels, inner, stride=stride), skip(channels, out_channels, stride=stride)))
                channels = out_channels
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(nn.Sequential(stem, stages, pool), width=channels, n_classes=n_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def photo_stem(channels: int) -> nn.Sequential:
    """Return the stem of the networks for photographs: (n, channels, y, x) to (n, 64, y / 4, x / 4)."""
    return nn.Sequential(
        conv_norm(channels, 64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
    )
