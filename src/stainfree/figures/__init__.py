"""Figures: numbers in, figure out; one module per figure family.

Each module has a pure ``draw``, tables and arrays to a matplotlib `Figure`, and a thin ``plot``, paths to paths.
Several families show trained (variant, model, loss) pairs, one loss per model or all of them; which one is told here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from stainfree.errors import DataError

CHOSEN_COLUMNS = ("variant", "model", "loss", "chosen", "published")


@dataclass(frozen=True)
class Pair:
    """One training of an experiment, and its standing among the losses of its model."""

    variant: str
    model: str
    loss: str
    chosen: bool
    """The loss with the best balanced accuracy on validation."""
    published: bool
    """The loss that the study picked."""
    alone: bool = False
    """Whether the model has no other loss, so that nothing was chosen."""

    @property
    def label(self) -> str:
        """The pair in a title: * marks the loss chosen on validation, † the one the study picked."""
        return self.model if self.alone else f"{self.model}, {self.loss}" + " *" * self.chosen + " †" * self.published

    @property
    def words(self) -> str:
        """The pair in a sentence."""
        return self.model if self.alone else f"{self.model} under {self.loss}"


def marks(pairs: Sequence[Pair]) -> str:
    """Say what the marks in the labels of `pairs` mean; nothing where there are none."""
    if all(pair.alone for pair in pairs):
        return ""
    # No-break spaces keep a mark on the line of its meaning.
    return "*\u00a0best balanced accuracy on validation, †\u00a0picked by the study."


def read_pairs(chosen_losses: str | os.PathLike[str], pairs: Sequence[Sequence[str]]) -> list[Pair]:
    """Look up pairs in the table of chosen losses.

    Parameters
    ----------
    chosen_losses
        CSV with variant, model, loss, chosen, published.
    pairs
        (variant, model, loss) of each training, in the order wanted.

    Raises
    ------
    DataError
        If the table lacks a column or a pair.
    """
    table = pd.read_csv(chosen_losses)
    absent = [name for name in CHOSEN_COLUMNS if name not in table.columns]
    if absent:
        raise DataError(f"{chosen_losses}: lacks the column {', '.join(absent)}; run the evaluation again")
    rows = {(row.variant, row.model, row.loss): row for row in table.itertuples(index=False)}
    for variant, model, loss in pairs:
        if (variant, model, loss) not in rows:
            raise DataError(f"{chosen_losses}: has no row {variant}, {model}, {loss}; run the evaluation again")
    found = [rows[variant, model, loss] for variant, model, loss in pairs]
    # Read as text: where no study picked a pair the column may be empty, and an empty value would count as true.
    n_losses = Counter((variant, model) for variant, model, _ in rows)
    return [
        Pair(
            str(r.variant),
            str(r.model),
            str(r.loss),
            chosen=str(r.chosen) == "True",
            published=str(r.published) == "True",
            alone=n_losses[r.variant, r.model] == 1,
        )
        for r in found
    ]
