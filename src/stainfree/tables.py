"""The tables of a study: our numbers, raw, with those that the study printed beside them.

All shares are fractions from 0 to 1, ours as well as the published ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stainfree import evaluation, files, metrics, predictions, splits
from stainfree.metrics import OVERALL
from stainfree.predictions import SUBSETS

PAIR = ["variant", "model", "loss"]
BY_SOURCE_COLUMNS = (
    *PAIR, "chosen", "published_pair", "n_folds", "n_folds_of_split", "source", "balanced_accuracy", "ci_low",
    "ci_high", "n_cells", "absent_classes",
)  # fmt: skip
SEED = 0
"""Seed of the intervals that are drawn here."""


def class_counts(
    split_tables: Mapping[str, pd.DataFrame],
    *,
    classes: Sequence[str] | None = None,
    study: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Count cells per class and subset (espinosa: table 1).

    Parameters
    ----------
    split_tables
        Variant -> its split, in the order of the config.
    classes
        Class names in the scheme's order; in that of their first cells where None.
    study
        What the study says: its counts per subset stand beside those of the variant that is of the study's own kind,
        its counts of all cells (``all``) beside those of each.

    Returns
    -------
    DataFrame
        variant, fold, class, train, validation, test, all, and published_train, published_validation, published_test,
        published_all (empty where the study printed none).
    """
    study = study or {}
    tables = []
    for variant, split in split_tables.items():
        names = list(classes or dict.fromkeys(split["class"]))
        counts = split.groupby(["fold", "class", "subset"])["cell_id"].nunique().unstack("subset")
        rows = pd.MultiIndex.from_product([sorted(split["fold"].unique()), names], names=["fold", "class"])
        counts = counts.reindex(index=rows, columns=list(SUBSETS)).fillna(0).astype("int64").reset_index()
        counts["all"] = counts[list(SUBSETS)].sum(axis=1)
        printed = study.get("class_counts", {})
        for subset in (*SUBSETS, evaluation.ALL):
            is_told = subset == evaluation.ALL or variant == study.get("published_variant")
            values = [printed.get(name, {}).get(subset) if is_told else None for name in counts["class"]]
            counts[f"published_{subset}"] = pd.array(values, dtype="Int64")
        counts.insert(0, "variant", variant)
        tables.append(counts.rename_axis(columns=None))
    return pd.concat(tables, ignore_index=True)


def _folds(scored: pd.DataFrame, pairs: pd.DataFrame, folds_of_split: Mapping[str, int]) -> pd.DataFrame:
    """Return `pairs` with n_folds, those behind a model's scores, and n_folds_of_split, those that there are."""
    found = evaluation.count_folds(scored)
    n_folds = [found.get((variant, model, loss)) for variant, model, loss in pairs[PAIR].itertuples(index=False)]
    return pairs.assign(
        n_folds=pd.array(n_folds, dtype="Int64"),
        n_folds_of_split=pd.array([folds_of_split.get(name) for name in pairs["variant"]], dtype="Int64"),
    )


def _absent_classes(rows: pd.DataFrame) -> pd.Series[str]:
    """Name the classes without cells, by variant, model, loss and subset."""
    recalls = rows[(rows["metric"] == "recall") & (rows["n_cells"] == 0)]
    return recalls.groupby([*PAIR, "subset"], sort=False)["class"].agg(", ".join)


def balanced_accuracy(
    scored: pd.DataFrame,
    chosen: pd.DataFrame,
    *,
    study: Mapping[str, Any] | None = None,
    folds_of_split: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Lay out the balanced accuracy of every model and loss, and of the trivial answer (espinosa: table 2).

    Parameters
    ----------
    scored
        The table of `evaluation.evaluate`.
    chosen
        The table of `evaluation.choose_losses`.
    study
        What the study says; its numbers stand in the row of the pair that it picked.
    folds_of_split
        Variant -> the folds of its split, of which a model may have run on some alone.

    Returns
    -------
    DataFrame
        variant, model, loss, chosen, published_pair, n_folds, n_folds_of_split, and for each subset:
        {subset}_balanced_accuracy, {subset}_ci_low, {subset}_ci_high, {subset}_n_cells, {subset}_absent_classes
        (those without cells, over which the mean is not taken) and published_{subset}.
    """
    rows = evaluation.headline(scored)
    values = rows[rows["metric"] == "balanced_accuracy"].set_index([*PAIR, "subset"])
    absent = _absent_classes(rows).reindex(values.index)
    flags = chosen.set_index(PAIR)
    printed = (study or {}).get("balanced_accuracy", {})
    out = rows[PAIR].drop_duplicates().reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(out)
    out["chosen"] = flags["chosen"].reindex(keys, fill_value=False).to_numpy()
    out["published_pair"] = flags["published"].reindex(keys, fill_value=False).to_numpy()
    out = _folds(scored, out, folds_of_split or {})
    for subset in SUBSETS:
        at = pd.MultiIndex.from_frame(out[PAIR].assign(subset=subset))
        of_subset = values.reindex(at)
        out[f"{subset}_balanced_accuracy"] = of_subset["value"].to_numpy()
        out[f"{subset}_ci_low"] = of_subset["ci_low"].to_numpy()
        out[f"{subset}_ci_high"] = of_subset["ci_high"].to_numpy()
        out[f"{subset}_n_cells"] = of_subset["n_cells"].astype("Int64").array
        out[f"{subset}_absent_classes"] = absent.reindex(at).to_numpy()
        of_study = out["model"].map({model: numbers.get(subset) for model, numbers in printed.items()})
        out[f"published_{subset}"] = of_study.where(out["published_pair"]).astype("float64")
    return out


def _mixed_sources(split: pd.DataFrame) -> list[str]:
    """Name the sources that hold more than one class; none where there is a single source."""
    n_classes = split.groupby("source", sort=True)["class"].nunique()
    return [str(name) for name in n_classes.index[n_classes > 1]] if len(n_classes) > 1 else []


def _score(table: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Score predictions by balanced accuracy; of several seeds, values and interval ends are averaged."""
    found = []
    for _, rows in table.groupby("seed", sort=True):
        confusion = metrics.confusion_matrix(
            evaluation.codes(rows["class"], classes),
            evaluation.codes(rows["predicted"], classes),
            n_classes=len(classes),
            weights=evaluation.cell_weights(rows),
        )
        value = float(metrics.balanced_accuracy(confusion))
        draws = metrics.balanced_accuracy_draws(confusion, rng=np.random.default_rng(SEED))
        found.append((value, *metrics.interval(draws, value)))
    value, low, high = np.mean(found, axis=0) if found else (np.nan, np.nan, np.nan)
    present = set(table["class"])
    return {
        "balanced_accuracy": value,
        "ci_low": low,
        "ci_high": high,
        "n_cells": table["cell_id"].nunique(),
        "absent_classes": ", ".join(name for name in classes if name not in present),
    }


def balanced_accuracy_by_source(
    whole: pd.DataFrame,
    predicted: Mapping[tuple[str, str, str], pd.DataFrame],
    split: pd.DataFrame,
    *,
    classes: Sequence[str],
) -> pd.DataFrame:
    """Score the test cells of one variant over all of them, and over each source that holds more than one class.

    Where a source holds one class alone, its acquisition tells the class; a score over the cells of another source is
    free of that.

    Parameters
    ----------
    whole
        The rows of that variant of the table of `balanced_accuracy`: its test scores are those over all cells.
    predicted
        (variant, model, loss) -> the predictions of a training.
    split
        The split of that variant: says which classes a source holds, and what the trivial answer is.
    classes
        Class names in the scheme's order.

    Returns
    -------
    DataFrame
        variant, model, loss, chosen, published_pair, n_folds, n_folds_of_split, source (``all`` or its name),
        balanced_accuracy, ci_low, ci_high, n_cells, absent_classes (those without test cells, over which the mean is
        not taken). With a single source, rows of ``all`` alone. The trivial answer is the largest training class over
        all sources.
    """
    trivial = evaluation.trivial_predictions(
        split[split["subset"] == "test"],
        classes=classes,
        largest=evaluation.largest_training_class(split, classes),
        path="split",
    )
    pairs = list(whole[PAIR].itertuples(index=False, name=None))
    rows = whole.set_axis([name.removeprefix("test_") for name in whole.columns], axis=1)
    rows = rows[[name for name in BY_SOURCE_COLUMNS if name != "source"]]
    found = [rows.assign(source=evaluation.ALL)]
    for source in _mixed_sources(split):
        answers = [trivial if model == evaluation.TRIVIAL else predicted[v, model, loss] for v, model, loss in pairs]
        scored = [
            _score(answer[(answer["subset"] == "test") & (answer["source"] == source)], classes) for answer in answers
        ]
        found.append(rows.assign(source=source, **pd.DataFrame(scored, index=rows.index)))
    # The sources of one pair stand together.
    return pd.concat(found).sort_index(kind="stable")[list(BY_SOURCE_COLUMNS)].reset_index(drop=True)


def scores(scored: pd.DataFrame, *, folds_of_split: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Lay out every overall score on the test cells, one row per model and loss.

    Returns
    -------
    DataFrame
        variant, model, loss, n_cells, n_folds, n_folds_of_split, and for each metric: {metric}, {metric}_ci_low,
        {metric}_ci_high.
    """
    rows = evaluation.headline(scored)
    rows = rows[(rows["subset"] == "test") & (rows["class"] == evaluation.ALL)]
    out = rows.drop_duplicates(PAIR)[[*PAIR, "n_cells"]].reset_index(drop=True)
    out = _folds(scored, out, folds_of_split or {})
    keys = pd.MultiIndex.from_frame(out[PAIR])
    for metric in OVERALL:
        of_metric = rows[rows["metric"] == metric].set_index(PAIR).reindex(keys)
        out[metric] = of_metric["value"].to_numpy()
        out[f"{metric}_ci_low"] = of_metric["ci_low"].to_numpy()
        out[f"{metric}_ci_high"] = of_metric["ci_high"].to_numpy()
    return out


def run(
    *,
    scored: str | os.PathLike[str],
    chosen: str | os.PathLike[str],
    split_paths: Mapping[str, str | os.PathLike[str]],
    class_counts_out: str | os.PathLike[str],
    balanced_accuracy_out: str | os.PathLike[str],
    by_source_out: str | os.PathLike[str],
    scores_out: str | os.PathLike[str],
    classes: Sequence[str],
    predicted: Sequence[str | os.PathLike[str]],
    pairs: Sequence[Sequence[str]],
    study: str | os.PathLike[str] | None = None,
) -> None:
    """Write the tables as CSV.

    Parameters
    ----------
    scored, chosen
        ``metrics.csv`` and ``chosen_losses.csv``.
    split_paths
        Variant -> its split.
    class_counts_out, balanced_accuracy_out, by_source_out, scores_out
        The files to write.
    classes
        Class names in the scheme's order.
    predicted
        ``predictions.parquet`` of each training of one variant, for the scores by source.
    pairs
        (variant, model, loss) of each of `predicted`.
    study
        What the study says.
    """
    said = evaluation.read_study(study)
    table = evaluation.read_metrics(scored)
    split_tables = {variant: splits.read(path) for variant, path in split_paths.items()}
    files.write_csv(class_counts_out, class_counts(split_tables, classes=classes, study=said))
    folds_of_split = {variant: int(split["fold"].nunique()) for variant, split in split_tables.items()}
    whole = balanced_accuracy(table, pd.read_csv(chosen), study=said, folds_of_split=folds_of_split)
    files.write_csv(balanced_accuracy_out, whole)
    variant = pairs[0][0]
    by_source = balanced_accuracy_by_source(
        whole[whole["variant"] == variant],
        {(v, model, loss): predictions.read(path) for (v, model, loss), path in zip(pairs, predicted, strict=True)},
        split_tables[variant],
        classes=classes,
    )
    files.write_csv(by_source_out, by_source)
    files.write_csv(scores_out, scores(table, folds_of_split=folds_of_split))
