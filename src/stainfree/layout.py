"""A study's table laid out for a page: panels of rows and columns, each number with what stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stainfree.evaluation import TRIVIAL
from stainfree.footnotes import Notes
from stainfree.pages import is_missing

PLACES = ("panel", "row", "column")
FRACTIONS = {"f1", "macro_f1", "weighted_f1", "mcc"}
"""Scores that are written as fractions; all others are shares, written in per cent."""


def is_laid_out(table: pd.DataFrame) -> bool:
    """Tell whether a table holds a row per number, with its place."""
    return set(PLACES) <= set(table.columns)


def folds(n: Any, n_all: Any) -> str:
    """Say ``1 of 5 folds`` where there are fewer than there could be; nothing else."""
    if is_missing(n) or is_missing(n_all) or int(n) >= int(n_all):
        return ""
    return f"{int(n)} of {int(n_all)} folds"


def written(value: float, *, as_fraction: bool) -> str:
    """Write a score: ``71.2 %``, or ``0.712`` as a fraction."""
    return f"{value:.3f}" if as_fraction else f"{100 * value:.1f} %"


def as_printed(value: float, *, as_fraction: bool, decimals: int) -> str:
    """Write a published score: in per cent with the digits that it has, as a fraction with so many decimals."""
    return f"{value:.{decimals}f}" if as_fraction else f"{100 * value:.4g} %"


def _decimals(value: float) -> int:
    """Count the decimals of a published fraction; a number in a file has lost its last zeros."""
    return len(f"{value:.4f}".rstrip("0").partition(".")[2])


def number(
    row: Mapping[str, Any], notes: Notes | None = None, *, as_fraction: bool, decimals: int = 2
) -> dict[str, Any]:
    """Write one number as its template wants it: what stands behind it, the published one, and marks of footnotes."""
    notes, published = notes or Notes({}), row.get("published")
    is_there, is_printed = not is_missing(row["value"]), not is_missing(published)
    keys = {str(key): value for key, value in row.items() if key not in ("published", "value")}
    low, high = (
        "" if is_missing(row[end]) else written(row[end], as_fraction=as_fraction) for end in ("ci_low", "ci_high")
    )
    return {
        "value": written(row["value"], as_fraction=as_fraction) if is_there else "",
        "interval": f"{low.removesuffix(' %')}–{high}" if low and high else "no interval",
        "n_cells": None if is_missing(row["n_cells"]) else int(row["n_cells"]),
        "folds": folds(row.get("n_folds"), row.get("n_folds_of_split")),
        "marks": notes.at(**keys) if is_there else "",
        "published": as_printed(float(row["published"]), as_fraction=as_fraction, decimals=decimals)
        if is_printed
        else "",
        "published_marks": notes.at(published=True, **keys) if is_printed else "",
    }


def _title(label: str, own: pd.DataFrame) -> str:
    """Write the label of a row or a column of numbers; that of the trivial answer in full."""
    return label.replace(TRIVIAL, "trivial answer") if set(own["model"]) == {TRIVIAL} else label


def panels(table: pd.DataFrame, notes: Notes, *, fractions: bool = False) -> list[dict[str, Any]]:
    """Lay out a table of one row per number.

    Parameters
    ----------
    table
        Columns of `stainfree.study_tables.COLUMNS`, and perhaps further ones by which footnotes are placed.
    notes
        The table's footnotes.
    fractions
        Whether shares are written as fractions too.

    Returns
    -------
    list of dict
        Per panel: name, is_first (of the variant that comes first), columns, and rows of label, is_trivial and numbers,
        None where there is none.
    """
    as_fraction = table["metric"].isin(FRACTIONS) | fractions
    decimals = max(map(_decimals, table.loc[as_fraction, "published"].dropna()), default=0)
    # A table without panels comes back from a file with numbers that are none.
    names = ["" if is_missing(name) else name for name in table["panel"]]
    laid: list[dict[str, Any]] = []
    for panel, own in table.assign(panel=names, as_fraction=as_fraction).groupby("panel", sort=False):
        columns = list(own["column"].unique())
        rows = []
        for label, of_row in own.groupby("row", sort=False):
            told: dict[str, Any] = {row["column"]: row for row in of_row.to_dict("records")}
            numbers = [
                number(told[name], notes, as_fraction=told[name]["as_fraction"], decimals=decimals)
                if name in told
                else None
                for name in columns
            ]
            is_trivial = set(of_row["model"]) == {TRIVIAL}
            rows.append({"label": _title(str(label), of_row), "is_trivial": is_trivial, "numbers": numbers})
        is_first = own["variant"].iloc[0] == table["variant"].iloc[0]
        titles = [_title(name, own[own["column"] == name]) for name in columns]
        laid.append({"name": panel, "is_first": is_first, "columns": titles, "rows": rows})
    return laid
