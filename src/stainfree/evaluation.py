"""The tidy table of every score of an experiment, and the choice of a loss per model."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stainfree import files, metrics, predictions, splits
from stainfree.errors import DataError

logger = logging.getLogger(__name__)

Pair = tuple[str, str, str]
"""Variant, model and loss: what one training job is about."""

COLUMNS = (
    "dataset", "experiment", "variant", "protocol", "balancing", "channels", "scheme", "model", "loss", "fold", "seed",
    "subset", "class", "metric", "value", "ci_low", "ci_high", "n_cells",
)  # fmt: skip
CHOSEN_COLUMNS = ("variant", "model", "loss", "validation_balanced_accuracy", "chosen", "published")
POOLED = "pooled"
MEAN = "mean"
ALL = "all"
TRIVIAL = "trivial"
NONE = "none"
SECONDS_BETWEEN_LINES = 5.0


def read_study(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Read what a study says (``workflow/studies/*.yaml``); nothing where an experiment rebuilds no study."""
    if path is None:
        return {}
    try:
        study = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable study ({reason}); correct the file") from error
    if not isinstance(study, dict):
        raise DataError(f"{path}: is no mapping of what a study says; correct the file")
    return study


def read_metrics(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read ``metrics.csv``; folds and seeds are text, since they may be ``pooled`` and ``mean``."""
    table = pd.read_csv(path, dtype={"fold": str, "seed": str})
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"{path}: lacks the columns {', '.join(missing)}; delete it and evaluate again")
    return table


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the one row per (variant, model, loss, subset, class, metric) that stands for all folds and seeds.

    Folds are pooled; of several seeds it is their mean.
    """
    pooled = table[table["fold"] == POOLED]
    keys = ["variant", "model", "loss", "subset"]
    has_mean = (pooled["seed"] == MEAN).groupby([pooled[key] for key in keys]).transform("any")
    return pooled[~has_mean | (pooled["seed"] == MEAN)].reset_index(drop=True)


def count_folds(table: pd.DataFrame) -> dict[Pair, int]:
    """Count the folds whose cells a model has scores of, by (variant, model, loss): it may have run on some alone."""
    pair = ["variant", "model", "loss"]
    folds = table.loc[table["fold"] != POOLED, [*pair, "fold"]].drop_duplicates()
    counts = folds.groupby(pair, sort=False, as_index=False).size()
    return {(variant, model, loss): n for variant, model, loss, n in counts.itertuples(index=False, name=None)}


def read_predictions(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a predictions table and refuse what cannot be scored.

    Raises
    ------
    DataError
        If a cell stands twice in one part and subset, a probability is no number, or a class has no probability.
    """
    table = predictions.read(path)
    classes = predictions.classes_of(table)
    twice = table.duplicated(["fold", "seed", "cell_id", "subset"])
    if twice.any():
        row = table[twice].iloc[0]
        raise DataError(
            f"{path}: cell {row['cell_id']} stands twice in {row['subset']} of fold {row['fold']}, seed {row['seed']}; "
            "delete it and train again"
        )
    if not np.isfinite(table[[f"p_{name}" for name in classes]].to_numpy()).all():
        raise DataError(f"{path}: holds probabilities that are no numbers; delete it and train again")
    strange = (set(table["class"]) | set(table["predicted"])) - set(classes)
    if strange:
        raise DataError(f"{path}: class {min(strange)} has no column of probabilities; delete it and train again")
    strange = set(table["subset"]) - set(predictions.SUBSETS)
    if strange:
        raise DataError(f"{path}: subset {min(strange)} is none of {', '.join(predictions.SUBSETS)}; train again")
    return table


def codes(names: pd.Series[str], classes: Sequence[str]) -> metrics.Codes:
    """Turn (cell,) class names into (cell,) int64 codes."""
    return pd.Categorical(names, categories=list(classes)).codes.astype(np.int64)


def cell_weights(table: pd.DataFrame) -> metrics.Floats:
    """Weigh each row by one over the number of rows of its cell, so that every cell counts once."""
    return 1.0 / table.groupby("cell_id")["cell_id"].transform("size").to_numpy(dtype=np.float64)


def _group_rng(seed: int, *key: object) -> np.random.Generator:
    """Derive a source of chance for one group of rows, which other groups leave as it is."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()])


def _score_rows(
    table: pd.DataFrame, *, classes: Sequence[str], bootstrap: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Score the rows of one group: class, metric, value, ci_low, ci_high, n_cells."""
    scores = metrics.score(
        codes(table["class"], classes),
        codes(table["predicted"], classes),
        table[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64),
        rng=rng,
        n_bootstrap=bootstrap,
        weights=cell_weights(table),
    )
    return pd.DataFrame(
        {
            "class": [ALL if s.class_code is None else classes[s.class_code] for s in scores],
            "metric": [s.metric for s in scores],
            "value": [s.value for s in scores],
            "ci_low": [s.low for s in scores],
            "ci_high": [s.high for s in scores],
            "n_cells": [s.n_cells for s in scores],
        }
    )


def _mean_of_seeds(per_seed: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Average values and interval ends over seeds."""
    out = per_seed[0].copy()
    for column in ("value", "ci_low", "ci_high"):
        out[column] = np.mean([table[column].to_numpy() for table in per_seed], axis=0)
    return out


def _evaluate_pair(
    table: pd.DataFrame, pair: Pair, *, classes: Sequence[str], bootstrap: int, seed: int
) -> Iterable[pd.DataFrame]:
    """Yield the scores of one training: of each subset and seed its folds, these pooled, and the mean of seeds."""
    for subset in (name for name in predictions.SUBSETS if (table["subset"] == name).any()):
        pooled = []
        for of_seed, rows in table[table["subset"] == subset].groupby("seed", sort=True):
            groups = {str(fold): in_fold for fold, in_fold in rows.groupby("fold", sort=True)}
            if len(groups) > 1:
                groups[POOLED] = rows
            for fold, group in groups.items():
                rng = _group_rng(seed, *pair, subset, of_seed, fold)
                scored = _score_rows(group, classes=classes, bootstrap=bootstrap, rng=rng)
                yield scored.assign(subset=subset, seed=str(of_seed), fold=fold)
            # The last is the pool; of a single fold it is the fold itself.
            if len(groups) == 1:
                yield scored.assign(subset=subset, seed=str(of_seed), fold=POOLED)
            pooled.append(scored)
        if len(pooled) > 1:
            yield _mean_of_seeds(pooled).assign(subset=subset, seed=MEAN, fold=POOLED)


def largest_training_class(cells: pd.DataFrame, classes: Sequence[str]) -> dict[int, str]:
    """Name the class with most training cells in each fold; the first in the scheme's order where there is a tie."""
    counts = cells[cells["subset"] == "train"].groupby(["fold", "class"])["cell_id"].nunique().unstack(fill_value=0)
    largest = counts.reindex(columns=list(classes), fill_value=0).idxmax(axis=1)
    return dict(zip(counts.index.tolist(), largest.tolist(), strict=True))


def trivial_predictions(
    cells: pd.DataFrame, *, classes: Sequence[str], largest: Mapping[int, str], path: object
) -> pd.DataFrame:
    """Predict the largest training class of the fold for every cell, with certainty.

    Parameters
    ----------
    cells
        One row per (fold, subset, cell): cell_id, fold, subset, class.
    classes
        Class names in the scheme's order.
    largest
        Fold -> its largest training class.
    path
        The file to name where a fold has no training cells.
    """
    unknown = sorted(set(cells["fold"]) - set(largest))
    if unknown:
        raise DataError(
            f"{path}: has no training cells of fold {unknown[0]}, which say what the trivial answer is; "
            "let training predict them, or give the split"
        )
    answer = cells["fold"].map(largest)
    return cells.assign(
        predicted=answer, seed=NONE, **{f"p_{name}": (answer == name).astype(float) for name in classes}
    )


def _evaluate_trivial(
    cells: pd.DataFrame, variant: str, *, classes: Sequence[str], split: Any, path: object, bootstrap: int, seed: int
) -> pd.DataFrame:
    """Score the trivial answer on all cells of a variant that any of its models predicted."""
    cells = cells.drop_duplicates(["fold", "subset", "cell_id"])
    largest = largest_training_class(cells, classes)
    if split is not None:
        largest = {**largest_training_class(splits.read(split), classes), **largest}
    table = trivial_predictions(cells, classes=classes, largest=largest, path=path)
    pair = (variant, TRIVIAL, NONE)
    scored = pd.concat(_evaluate_pair(table, pair, classes=classes, bootstrap=bootstrap, seed=seed))
    return scored.assign(variant=variant, model=TRIVIAL, loss=NONE)


def evaluate(
    trained: Mapping[Pair, str | os.PathLike[str]],
    *,
    dataset: str,
    experiment: str,
    channels: Sequence[str],
    scheme: str,
    variants: Mapping[str, Mapping[str, str]] | None = None,
    split_paths: Mapping[str, str | os.PathLike[str]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score all trainings of an experiment, and the trivial answer beside them.

    Parameters
    ----------
    trained
        (variant, model, loss) -> its ``predictions.parquet``, in the order of the config.
    dataset, experiment, channels, scheme
        What the rows say of themselves; channels are joined by ``+``.
    variants
        Variant -> its ``protocol`` and ``balancing``; ``honest`` and ``none`` where not given.
    split_paths
        Variant -> its split, for the trivial answer where the models did not predict their training cells.
    bootstrap
        Replicates of the bootstrap.
    seed
        Seed of the intervals. Each group of rows has its own source of chance, so that a further model changes no other
        row.

    Returns
    -------
    DataFrame
        `COLUMNS`, one row per (variant, model, loss, fold, seed, subset, class, metric); see `metrics.score`.
        `fold` is a number or ``pooled``, which always exists: the predictions of all folds together, each cell counting
        once, with the cells that were in test of some fold for the test subset. `seed` is a number, or ``mean`` for the
        mean over several of the pooled values and of the ends of their intervals. `class` is a class or ``all``. The
        trivial answer, always the largest training class of the fold, is model ``trivial`` with loss and seed ``none``,
        first in each variant.

    Raises
    ------
    DataError
        If predictions do not keep the contract or classes differ between them.
    """
    classes: tuple[str, ...] = ()
    cells: dict[str, list[pd.DataFrame]] = {}
    first_path: dict[str, object] = {}
    scored: dict[str, list[pd.DataFrame]] = {}
    told = time.monotonic()
    for number, (pair, path) in enumerate(trained.items(), start=1):
        table = read_predictions(path)
        of_table = predictions.classes_of(table)
        if classes and of_table != classes:
            raise DataError(f"{path}: has the classes {', '.join(of_table)}, others {', '.join(classes)}; train again")
        classes = of_table
        variant, model, loss = pair
        first_path.setdefault(variant, path)
        cells.setdefault(variant, []).append(
            table[["cell_id", "fold", "subset", "class"]].drop_duplicates(["fold", "subset", "cell_id"])
        )
        rows = pd.concat(_evaluate_pair(table, pair, classes=classes, bootstrap=bootstrap, seed=seed))
        scored.setdefault(variant, []).append(rows.assign(variant=variant, model=model, loss=loss))
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            logger.info("%s of %s trainings scored", number, len(trained))
            told = time.monotonic()
    parts = []
    for variant, of_variant in scored.items():
        trivial = _evaluate_trivial(
            pd.concat(cells[variant]),
            variant,
            classes=classes,
            split=(split_paths or {}).get(variant),
            path=first_path[variant],
            bootstrap=bootstrap,
            seed=seed,
        )
        said = (variants or {}).get(variant, {})
        out = pd.concat([trivial, *of_variant])
        parts.append(out.assign(protocol=said.get("protocol", "honest"), balancing=said.get("balancing", NONE)))
    table = pd.concat(parts, ignore_index=True)
    table = table.assign(dataset=dataset, experiment=experiment, channels="+".join(channels), scheme=scheme)
    return table[list(COLUMNS)]


def choose_losses(table: pd.DataFrame, published_pairs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Choose the best loss per model by validation alone.

    Parameters
    ----------
    table
        The table of `evaluate`; nothing but its balanced accuracies on validation is read.
    published_pairs
        Model -> the loss that the study picked for it.

    Returns
    -------
    DataFrame
        variant, model, loss, validation_balanced_accuracy, chosen (the highest of the variant and model; of equal ones
        the first in the order of the config), published (the pair that the study picked).

    Raises
    ------
    DataError
        If a model has no cells in validation.
    """
    rows = headline(table)
    wanted = (rows["metric"] == "balanced_accuracy") & (rows["subset"] == "validation") & (rows["model"] != TRIVIAL)
    out = rows[wanted].rename(columns={"value": "validation_balanced_accuracy"}).reset_index(drop=True)
    models = table.loc[table["model"] != TRIVIAL, ["variant", "model"]].drop_duplicates()
    lacking = models.merge(out[["variant", "model"]].drop_duplicates(), how="left", indicator=True)
    lacking = lacking[lacking["_merge"] == "left_only"]
    if len(lacking):
        variant, model = lacking.iloc[0][["variant", "model"]]
        raise DataError(f"{variant}/{model}: no predictions of validation cells to choose a loss by; train again")
    best = out.groupby(["variant", "model"], sort=False)["validation_balanced_accuracy"].idxmax()
    out["chosen"] = out.index.isin(best)
    picked = out["model"].map(dict(published_pairs or {}))
    out["published"] = picked.notna() & (picked == out["loss"])
    return out[list(CHOSEN_COLUMNS)]


def run(
    trained: Sequence[str | os.PathLike[str]],
    *,
    pairs: Sequence[Sequence[str]],
    out: str | os.PathLike[str],
    chosen: str | os.PathLike[str],
    study: str | os.PathLike[str] | None = None,
    **options: Any,
) -> None:
    """Write ``metrics.csv`` and ``chosen_losses.csv``.

    Parameters
    ----------
    trained
        ``predictions.parquet`` of each training.
    pairs
        [variant, model, loss] of each training, in the same order.
    out, chosen
        The two CSV files to write.
    study
        What the study says, for the pairs it picked.
    **options
        As for `evaluate`.
    """
    keyed: dict[Pair, str | os.PathLike[str]] = {
        (variant, model, loss): path for (variant, model, loss), path in zip(pairs, trained, strict=True)
    }
    table = evaluate(keyed, **options)
    files.write_csv(chosen, choose_losses(table, read_study(study).get("published_pairs")))
    files.write_csv(out, table)
    logger.info("%s trainings scored, %s rows", len(keyed), len(table))
