"""The simple vision transformer of Espinosa: 160,389 parameters on a grey image.

Source: Espinosa, section 4.3, after Beyer et al. 2022 (arXiv 2205.01580): patches of 16, width 32, two layers, eight
heads of 64, fixed two-dimensional sine-cosine positions, mean pooling. No bias in the query-key-value and output
projections, and no layer norm on the raw patches: the reading that gives the published count.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stainfree.models import Family, Recipe
from stainfree.models._layers import RepeatedConv2d, called_one_by_one, copies_of

FAMILY = Family(
    image_size=66,
    crop=64,
    smallest_side=16,
    embedding=True,
    parameters={"patch": 16, "width": 32, "depth": 2, "heads": 8, "head_width": 64, "mlp_width": 32, "dropout": 0.25},
    values={"dropout": {"least": 0, "below": 1}},
    recipe=Recipe(learning_rate=1e-3, batches_per_epoch=5, epochs=10, validate="step", patience=20, flip=True),
)


def sine_cosine_positions(rows: int, columns: int, width: int, *, temperature: float = 10_000.0) -> Tensor:
    """Return fixed positions (rows * columns, width): sines and cosines of x and y, a quarter of the width each.

    Source: Beyer et al. 2022, appendix: ``posemb_sincos_2d``.
    """
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4")
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    omega = temperature ** -(torch.arange(width // 4) / (width // 4 - 1))
    x_angle = x.flatten()[:, None] * omega
    y_angle = y.flatten()[:, None] * omega
    return torch.cat([x_angle.sin(), x_angle.cos(), y_angle.sin(), y_angle.cos()], dim=1)


class Attention(nn.Module):
    """Multi-head self-attention with a layer norm before it."""

    def __init__(self, width: int, *, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, tokens, width) to the same shape."""
        x = self.norm(x)
        wide_heads = self.head_width >= x.shape[2]
        return self.dropout(self._on_tokens(x) if wide_heads and not called_one_by_one() else self._by_heads(x))

    def _by_heads(self, x: Tensor) -> Tensor:
        """Attend with query, key and value of each head."""
        query, key, value = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)  # (n, heads, tokens, head_width)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _on_tokens(self, x: Tensor) -> Tensor:
        """Attend on the tokens themselves: the same function, cheaper where heads are wider than tokens.

        Without biases, two linear maps in a row are one: query times key is x (Wq' Wk) x', and the way out of the
        values is Wo Wv, each of them width by width for a head, whatever the head's width.
        """
        n, tokens, width = x.shape
        query, key, value = self.to_qkv.weight.unflatten(0, (3, self.heads, -1))  # (heads, head_width, width)
        out = self.to_out.weight.unflatten(1, (self.heads, -1))  # (width, heads, head_width)
        match = torch.einsum("hki,hkj->hji", query, key).flatten(0, 1) * self.head_width**-0.5
        pour = torch.einsum("ohk,hkj->ohj", out, value).flatten(1)
        # All heads of a cell stand in one matrix: nothing is copied to bring them together.
        scores = F.linear(x, match).view(n, tokens * self.heads, width) @ x.transpose(1, 2)
        attended = scores.softmax(dim=-1) @ x  # (n, tokens * heads, width)
        return F.linear(attended.view(n, tokens, self.heads * width), pour)


class FeedForward(nn.Sequential):
    """Layer norm, one hidden layer with GELU, and back to the width."""

    def __init__(self, width: int, *, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout)
        )


class Model(nn.Module):
    """Patches to tokens, transformer layers, mean over tokens, layer norm, a linear head."""

    def __init__(
        self,
        *,
        channels: int,
        image_size: int,
        n_classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
        mlp_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # A linear map of each patch is a convolution whose stride is its kernel.
        self.patches = RepeatedConv2d(channels, width, patch, copies=copies_of(channels), stride=patch)
        side = image_size // patch
        self.register_buffer("positions", sine_cosine_positions(side, side, width), persistent=False)
        # Where dropout stands is not published: at the end of each branch, as usual (assumption).
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(width, heads=heads, head_width=head_width, dropout=dropout),
                    FeedForward(width, hidden=mlp_width, dropout=dropout),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, width)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions  # (n, tokens, width)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            tokens = tokens + attention(tokens)
            tokens = tokens + feed_forward(tokens)
        return self.norm(tokens.mean(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, y, x) to (n, n_classes) logits."""
        return self.head(self.embed(x))
