"""Explanations: where in the image a model looks, and how its embedding lies.

Several explanations are of one loss per model: the one with the best balanced accuracy on validation.
"""

from __future__ import annotations

import os

import pandas as pd

from stainfree.errors import DataError

MARKS = ("chosen", "published")


def marked_pairs(chosen_losses: str | os.PathLike[str], mark: str) -> set[tuple[str, str, str]]:
    """Read which (variant, model, loss) carry a mark in the table of chosen losses.

    Parameters
    ----------
    chosen_losses
        ``tables/chosen_losses.csv``.
    mark
        ``chosen``: best on validation; ``published``: picked by the study.

    Raises
    ------
    DataError
        If the table lacks a column.
    """
    table = pd.read_csv(chosen_losses, dtype=str)
    absent = [name for name in ("variant", "model", "loss", *MARKS) if name not in table.columns]
    if absent:
        raise DataError(f"{chosen_losses}: lacks the column {', '.join(absent)}; run the evaluation again")
    rows = table.loc[table[mark] == "True", ["variant", "model", "loss"]]
    return set(rows.itertuples(index=False, name=None))
