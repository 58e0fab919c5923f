"""Losses against hand calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stainfree import losses
from stainfree.errors import ConfigError
from stainfree.loop import build_loss
from stainfree.losses.logit_adjusted import TAU

COUNTS = np.array([100, 4, 1])


@pytest.mark.parametrize(
    ("name", "weights"),
    [("unweighted", [1, 1, 1]), ("sqrt_weighted", [0.1, 0.5, 1]), ("inv_weighted", [0.01, 0.25, 1])],
)
def test_weighted_cross_entropy_is_the_weighted_mean_of_log_losses(name: str, weights: list[float]) -> None:
    loss, told = build_loss(name, COUNTS)
    assert told is not None
    np.testing.assert_allclose(told, weights, rtol=1e-6)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    target = torch.tensor([0, 1])
    cell = [-math.log(math.exp(2) / (math.exp(2) + 2)), -math.log(1 / (2 + math.e))]
    expected = (weights[0] * cell[0] + weights[1] * cell[1]) / (weights[0] + weights[1])
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_logits_are_adjusted_by_the_log_shares_in_training(smoothing: float) -> None:
    loss, told = build_loss("logit_adjusted", COUNTS, label_smoothing=smoothing)
    assert told is None
    logits, shares = [2.0, 0.0, 1.0], [100 / 105, 4 / 105, 1 / 105]
    odds = [share**TAU * math.exp(logit) for share, logit in zip(shares, logits, strict=True)]
    logs = [-math.log(odd / sum(odds)) for odd in odds]
    expected = (1 - smoothing) * logs[2] + smoothing * sum(logs) / 3
    assert loss(torch.tensor([logits]), torch.tensor([2])).item() == pytest.approx(expected, rel=1e-5)


def test_the_adjusted_loss_is_least_where_odds_are_those_of_classes_made_equal() -> None:
    """What half of a class of 100 and a class of 1 show speaks two to one for the small class, where tau is 1."""
    loss, _ = build_loss("logit_adjusted", np.array([100, 1]))
    cells = torch.tensor([0] * 50 + [1])
    shift = torch.linspace(-3, 3, 601)
    losses_of = torch.stack([loss(torch.stack([torch.zeros(51), s.expand(51)], 1), cells) for s in shift])
    assert shift[losses_of.argmin()].item() == pytest.approx(math.log(2) + (TAU - 1) * math.log(100), abs=0.02)


@pytest.mark.parametrize("name", losses.loss_names())
def test_every_loss_has_a_finite_gradient(name: str) -> None:
    loss, _ = build_loss(name, COUNTS)
    logits = torch.randn(6, 3, requires_grad=True)
    loss(logits, torch.tensor([0, 0, 0, 0, 1, 2])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown loss `inv_weigthed`; did you mean `inv_weighted`"):
        losses.loss_path("inv_weigthed")
