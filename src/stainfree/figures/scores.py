"""Scores on test cells for figures: ours with their intervals, the trivial answer's, and what a study printed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stainfree import evaluation
from stainfree.errors import DataError
from stainfree.evaluation import ALL, TRIVIAL
from stainfree.explain import marked_pairs
from stainfree.metrics import OVERALL, PER_CLASS
from stainfree.names import nearest


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse metrics that are not in ``metrics.csv``; raise `DataError` naming the nearest."""
    known = (*OVERALL, *PER_CLASS)
    for metric in metrics:
        if metric not in known:
            raise DataError(
                f"figure: unknown metric `{metric}`{nearest(metric, known)} (there are: {', '.join(known)})"
            )


def read(
    path: str | os.PathLike[str],
    chosen_losses: str | os.PathLike[str],
    *,
    variants: Sequence[str],
    models: Sequence[str],
    metrics: Sequence[str],
    study: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Read scores on test cells over all folds and seeds, of each model under its chosen loss.

    Parameters
    ----------
    path, chosen_losses
        ``metrics.csv`` and ``tables/chosen_losses.csv``.
    variants, models, metrics
        Which are wanted; a model that is not trained in a variant has no row.
    study
        What the study says, for the published numbers.

    Returns
    -------
    DataFrame
        variant, model, metric, class (``all`` or a class), value, ci_low, ci_high, n_cells, published (NaN for none);
        rows in the order of `variants`, `models` and `metrics`, classes in the scheme's order. The trivial answer is
        model ``trivial``, last in each variant.

    Raises
    ------
    DataError
        If a metric is unknown, or there is no score of a variant or a model at all.
    """
    check_metrics(metrics)
    table = evaluation.headline(evaluation.read_metrics(path))
    chosen = marked_pairs(chosen_losses, "chosen")
    pairs = table[["variant", "model", "loss"]].itertuples(index=False, name=None)
    table = table[[pair in chosen or pair[1] == TRIVIAL for pair in pairs]]
    table = table[(table["subset"] == "test") & table["variant"].isin(list(variants))]
    table = table[table["model"].isin([*models, TRIVIAL]) & table["metric"].isin(list(metrics))]
    for what, names in (("variant", variants), ("model", models)):
        absent = [name for name in names if name not in set(table[what])]
        if absent:
            raise DataError(f"{path}: has no test scores of {what} {absent[0]}; evaluate again, or leave it out")
    # Within a metric, classes stay in the scheme's order.
    for what, names in (("metric", metrics), ("model", [*models, TRIVIAL]), ("variant", variants)):
        place = {name: place for place, name in enumerate(names)}
        table = table.iloc[np.argsort(table[what].map(place).to_numpy(), kind="stable")]
    columns = ["variant", "model", "metric", "class", "value", "ci_low", "ci_high", "n_cells"]
    table = table[columns].reset_index(drop=True)
    keys = table[["variant", "model", "metric", "class"]].itertuples(index=False, name=None)
    return table.assign(published=[published(study or {}, *key) for key in keys])


def published(study: Mapping[str, Any], variant: str, model: str, metric: str, class_name: str) -> float:
    """Return what a study printed for a score; NaN where it printed nothing.

    ``accuracy_by_variant`` of a study holds accuracies per variant, recalls per class over its variants, and the macro
    F1 of the variant that its ``headline`` names; ``class_scores`` holds the scores per class of that variant.
    """
    by_variant = study.get("accuracy_by_variant", {}).get(model, {})
    headline = study.get("headline", {}).get("variant") == variant
    found = None
    if metric == "accuracy":
        found = by_variant.get(variant)
    elif metric == "macro_f1" and headline:
        found = by_variant.get("macro_f1")
    elif metric == "recall":
        found = by_variant.get("recall", {}).get(class_name)
    if found is None and headline and class_name != ALL:
        found = study.get("class_scores", {}).get(model, {}).get(class_name, {}).get(metric)
    return float("nan") if found is None else float(found)


def cells(table: pd.DataFrame) -> str:
    """Say how many test cells are behind the scores, and which models have fewer."""
    learned = table[table["model"] != TRIVIAL]
    # The cells of a metric per class add up to all.
    rows = learned.groupby(["model", "variant", "metric"], sort=False)["n_cells"].sum().reset_index()
    rows = rows.drop_duplicates(["model", "variant"])
    most = int(rows["n_cells"].max())
    several = rows["variant"].nunique() > 1
    fewer: dict[int, list[str]] = {}
    for row in rows[rows["n_cells"] < most].to_dict("records"):
        name = f"{row['model']} ({row['variant']})" if several else row["model"]
        fewer.setdefault(int(row["n_cells"]), []).append(name)
    said = [f"{n:,} of {', '.join(names)}" for n, names in fewer.items()]
    return f"Test cells: {most:,}" + (f", but {'; '.join(said)}" if said else "") + "."
