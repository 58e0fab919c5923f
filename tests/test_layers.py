"""Layers computed together: what torch computes layer by layer, with the same parameters, outputs and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stainfree.models import _layers
from stainfree.models._layers import ConvBlock, ConvNormPool, RepeatedConv2d, called_one_by_one, one_by_one
from stainfree.models.simple_vit import Attention


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the rounding of a few sums in float64."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few cells, so that small batches take several, the last one smaller."""
    monkeypatch.setattr(_layers, "_CHUNK", 3 * 4 * 12 * 8)


def block(*, channels: int = 2, copies: int = 1, kernel_size: int = 3, pool: int = 4) -> ConvBlock:
    """A block in float64 whose norm has weights of both signs and statistics that are not those of a new one."""
    torch.manual_seed(0)
    made = ConvBlock(channels, 4, kernel_size, pool=pool, copies=copies).double()
    with torch.no_grad():
        made.norm.weight.copy_(torch.tensor([1.5, -0.7, 0.2, -2.0]))
        made.norm.bias.copy_(torch.tensor([0.1, -0.4, 0.3, 0.0]))
        made.norm.get_buffer("running_mean").normal_()
        made.norm.get_buffer("running_var").uniform_(0.5, 2)
    return made


def in_torch(ours: ConvBlock, *, repeated: int) -> nn.Sequential:
    """The same block as torch's own layers in the usual order, on the image repeated on the channel axis."""
    conv = nn.Conv2d(ours.conv.in_channels, 4, 2 * ours.padding + 1, padding=ours.padding).double()
    theirs = nn.Sequential(conv, nn.BatchNorm2d(4).double(), nn.ReLU(), nn.MaxPool2d(ours.pool.kernel_size))
    theirs[0].load_state_dict(ours.conv.state_dict())
    theirs[1].load_state_dict(ours.norm.state_dict())
    theirs.register_forward_pre_hook(lambda _, inputs: inputs[0].repeat(1, repeated, 1, 1))
    return theirs


class TestConvBlock:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(("channels", "copies"), [(1, 3), (2, 1)])
    @pytest.mark.parametrize(("kernel_size", "pool", "size"), [(3, 4, (12, 8)), (5, 2, (7, 9)), (7, 4, (13, 11))])
    def test_is_convolution_norm_relu_and_pool_of_torch(
        self, training: bool, channels: int, copies: int, kernel_size: int, pool: int, size: tuple[int, int]
    ) -> None:
        ours = block(channels=channels, copies=copies, kernel_size=kernel_size, pool=pool).train(training)
        theirs = in_torch(ours, repeated=copies).train(training)
        x = torch.randn(8, channels, *size, dtype=torch.float64, requires_grad=True)
        outputs, gradients = [], []
        for module in (ours, theirs):
            out = module(x)
            wanted = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
            outputs.append(out)
            gradients.append(torch.autograd.grad((out * wanted).sum(), [x, *module.parameters()]))
        assert_same(outputs[0], outputs[1])
        for mine, other in zip(*gradients, strict=True):
            assert_same(mine, other)
        for key, value in theirs[1].state_dict().items():
            assert_same(ours.norm.state_dict()[key], value)

    @pytest.mark.parametrize("training", [True, False])
    def test_one_by_one_gives_the_same_and_calls_every_layer(self, training: bool) -> None:
        ours = block().train(training)
        x = torch.randn(5, 2, 12, 8, dtype=torch.float64)
        called: list[nn.Module] = []
        other = copy.deepcopy(ours)
        for layer in other.children():
            layer.register_forward_hook(lambda layer, *_: called.append(layer))
        with one_by_one():
            expected = other(x)
        assert_same(ours(x), expected)
        assert called == [other.conv, other.norm, other.pool, other.relu]

    def test_far_from_zero_the_variance_keeps_its_digits(self) -> None:
        # In float32, sums of squares of values near 3,000 could not tell a variance of about 1.
        ours = block(channels=1, kernel_size=1).float()
        ours.norm.momentum = 1.0
        with torch.no_grad():
            ours.conv.weight.fill_(1)
            nn.init.constant_(ours.conv.get_parameter("bias"), 3000)
        x = torch.randn(64, 1, 12, 8)
        ours(x)
        expected = x.double().var().float().expand(4)
        torch.testing.assert_close(ours.norm.get_buffer("running_var"), expected, rtol=1e-3, atol=0)

    def test_same_batch_gives_the_same_bits_whether_maps_are_kept_or_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.randn(9, 2, 12, 8, dtype=torch.float64)

        def gradients() -> list[torch.Tensor]:
            ours = block()
            return list(torch.autograd.grad(ours(x).square().sum(), list(ours.parameters())))

        kept = gradients()
        assert all(torch.equal(first, second) for first, second in zip(kept, gradients(), strict=True))
        monkeypatch.setattr(_layers, "_KEPT", 0)
        assert all(torch.equal(first, second) for first, second in zip(kept, gradients(), strict=True))


def test_gradient_of_the_joint_function_is_its_derivative() -> None:
    torch.manual_seed(1)
    x = torch.randn(5, 2, 8, 4, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    shift = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def pooled(*tensors: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = ConvNormPool.apply(*tensors, 1, 2, 1e-5)[0]
        return out

    assert torch.autograd.gradcheck(pooled, (x, kernel, bias, weight, shift), atol=1e-6)


def test_a_grey_image_gives_a_map_with_channels_last() -> None:
    conv = RepeatedConv2d(1, 8, 7, copies=3, padding=3)
    assert conv(torch.randn(2, 1, 16, 16)).is_contiguous(memory_format=torch.channels_last)


class TestAttention:
    @pytest.mark.parametrize(("heads", "head_width"), [(3, 16), (2, 8), (4, 2)])
    def test_on_tokens_and_by_heads_agree_with_multi_head_attention(self, heads: int, head_width: int) -> None:
        torch.manual_seed(0)
        attention = Attention(8, heads=heads, head_width=head_width, dropout=0.0).double()
        x = torch.randn(6, 5, 8, dtype=torch.float64, requires_grad=True)

        def written_out(x: torch.Tensor) -> torch.Tensor:
            normal = attention.norm(x)
            parts = attention.to_qkv.weight.view(3, heads, head_width, 8)
            out = torch.zeros_like(x)
            for head in range(heads):
                query, key, value = (normal @ parts[kind, head].T for kind in range(3))
                shares = (query @ key.transpose(1, 2) / head_width**0.5).softmax(dim=-1)
                columns = slice(head * head_width, (head + 1) * head_width)
                out = out + shares @ value @ attention.to_out.weight[:, columns].T
            return out

        wanted = torch.randn(6, 5, 8, dtype=torch.float64)
        leaves = [x, *attention.parameters()]
        expected = written_out(x)
        expected_gradients = torch.autograd.grad((expected * wanted).sum(), leaves)
        normal = attention.norm(x)
        for attend in (attention._on_tokens, attention._by_heads):
            assert_same(attend(normal), expected)
        found = attention(x)
        assert_same(found, expected)
        for mine, other in zip(torch.autograd.grad((found * wanted).sum(), leaves), expected_gradients, strict=True):
            assert_same(mine, other)


def test_one_by_one_ends_with_its_block_even_after_an_error() -> None:
    def fail() -> None:
        with one_by_one():
            raise KeyError(called_one_by_one())

    with pytest.raises(KeyError, match="True"):
        fail()
    assert not called_one_by_one()
