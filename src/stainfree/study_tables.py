"""Tables that one study has and others have not, each number beside the published one.

Every kind is a function from scores to a table of one row per number: where it stands when the table is laid out
(panel, row, column), what it is (variant, model, loss, class, metric), its value with the 95 % interval, the test cells
and the folds behind it, and what the study printed there. All shares are fractions from 0 to 1.

A model may have been trained on fewer folds than the split has: `n_folds` of `n_folds_of_split` says so, and its cells
are those of these folds. Over several variants, values and ends of intervals are averaged: their test cells are the
same, so the interval of the mean is taken to be no narrower than theirs; cells and folds are those of the variant that
has fewest.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stainfree import evaluation, files, splits
from stainfree.errors import ConfigError
from stainfree.evaluation import ALL, NONE, TRIVIAL
from stainfree.metrics import in_words

COLUMNS = (
    "panel", "row", "column", "variant", "model", "loss", "class", "metric", "value", "ci_low", "ci_high", "n_cells",
    "n_folds", "n_folds_of_split", "published",
)  # fmt: skip
WEIGHTED = "weighted"
"""What tables call the average over classes that is weighted by their cells."""
WEIGHTED_SCORES = {"precision": "weighted_precision", "recall": "accuracy", "f1": "weighted_f1"}
"""Score of a class -> the overall score that is its weighted average; that of recall is accuracy."""
SEED_SCORES = ("balanced_accuracy", "accuracy", "weighted_f1", "macro_f1")

Row = dict[str, Any]
Model = tuple[str, str]
"""Model and loss."""


@dataclass(frozen=True)
class Scores:
    """The scores of an experiment on test cells, with the folds behind them."""

    values: pd.DataFrame
    """Rows of `evaluation.COLUMNS` that stand for all folds and seeds, of the test cells."""
    folds: Mapping[tuple[str, str, str], int]
    """(variant, model, loss) -> the folds that it was tested on."""
    folds_of_split: Mapping[str, int]
    """Variant -> the folds that its split has."""

    @classmethod
    def of(cls, scored: pd.DataFrame, folds_of_split: Mapping[str, int]) -> Scores:
        """Take the test scores out of the table of `evaluation.evaluate`."""
        test = scored[scored["subset"] == "test"]
        return cls(evaluation.headline(test), evaluation.count_folds(test), folds_of_split)

    def models(self, variants: Sequence[str], names: Sequence[str] | None = None) -> list[Model]:
        """Return the models of all of the variants, or those called `names` of any; the trivial answer last."""
        found = [
            list(own[["model", "loss"]].drop_duplicates().itertuples(index=False, name=None))
            for own in (self.values[self.values["variant"] == variant] for variant in variants)
        ]
        seen: list[Model] = list(dict.fromkeys(pair for pairs in found for pair in pairs if pair[0] != TRIVIAL))
        if names is None:
            chosen = [pair for pair in seen if all(pair in pairs for pairs in found)]
        else:
            chosen = [pair for name in names for pair in seen if pair[0] == name]
        return [*chosen, (TRIVIAL, NONE)]

    def number(
        self, variants: Sequence[str], model: Model, *, metric: str, class_name: str = ALL, published: Any = None
    ) -> Row:
        """Return what is known of one number: the mean where there are several variants."""
        name, loss = model
        wanted = {"model": name, "loss": loss, "metric": metric, "class": class_name}
        table = self.values
        for key, value in wanted.items():
            table = table[table[key] == value]
        table = table[table["variant"].isin(variants)]
        whole = set(table["variant"]) == set(variants)
        mean: Any = table[["value", "ci_low", "ci_high"]].mean(skipna=False) if whole else {}
        return {
            "variant": "+".join(variants),
            **wanted,
            **{key: mean.get(key, np.nan) for key in ("value", "ci_low", "ci_high")},
            "n_cells": int(table["n_cells"].min()) if whole else None,
            "n_folds": min(self.folds.get((variant, name, loss), 0) for variant in variants) if whole else None,
            "n_folds_of_split": max(self.folds_of_split[variant] for variant in variants) if whole else None,
            "published": published,
        }


def _label(model: Model, models: Sequence[Model]) -> str:
    """Name a model, with its loss where it has several."""
    name, loss = model
    return f"{name}, {loss}" if sum(other == name for other, _ in models) > 1 else name


def _table(rows: Sequence[Row], *further: str) -> pd.DataFrame:
    """Lay out numbers, with further columns at the end."""
    table = pd.DataFrame(list(rows), columns=[*COLUMNS, *further])
    numbers = dict.fromkeys(("value", "ci_low", "ci_high", "published"), "float64")
    return table.astype({**numbers, **dict.fromkeys(("n_cells", "n_folds", "n_folds_of_split"), "Int64")})


@dataclass(frozen=True)
class Source:
    """What tables are made from."""

    scores: Scores
    classes: Sequence[str]
    """Class names in the scheme's order."""
    models: Sequence[Mapping[str, Any]]
    """``model.json`` of each training."""
    study: Mapping[str, Any]
    """What the study says."""
    main: str
    """The variant that figures show."""
    before: Scores | None = None
    """Scores of the experiment that a model of this one starts from."""
    start: Mapping[str, str] | None = None
    """That training: experiment, variant, model and loss."""

    def about(self, variant: str, model: Model) -> Mapping[str, Any] | None:
        """Return what ``model.json`` says of a training; None for the trivial answer."""
        wanted = (variant, *model)
        return next((one for one in self.models if (one["variant"], one["model"], one["loss"]) == wanted), None)


def accuracy_by_variant(
    source: Source, *, variants: Sequence[str], models: Sequence[str] | None = None, f1_variant: str | None = None
) -> pd.DataFrame:
    """Accuracy per variant, recall of each class over all variants, and macro F1 in one (billard: table II).

    Parameters
    ----------
    variants
        Those to show side by side.
    models
        Those to show; all that were trained in each of the variants where None.
    f1_variant
        The variant of the macro F1; the last where None.
    """
    f1_variant = f1_variant or variants[-1]
    shown = source.scores.models(variants, models)
    rows: list[Row] = []
    for model in shown:
        said = source.study.get("accuracy_by_variant", {}).get(model[0], {})
        numbers = {
            f"accuracy {variant}": source.scores.number(
                [variant], model, metric="accuracy", published=said.get(variant)
            )
            for variant in variants
        }
        numbers |= {
            f"recall {name}": source.scores.number(
                variants, model, metric="recall", class_name=name, published=said.get("recall", {}).get(name)
            )
            for name in source.classes
        }
        numbers[f"macro F1 {f1_variant}"] = source.scores.number(
            [f1_variant], model, metric="macro_f1", published=said.get("macro_f1")
        )
        rows += [{"row": _label(model, shown), "column": column, **told} for column, told in numbers.items()]
    return _table(rows)


def by_parameter(
    source: Source, *, models: Sequence[str], parameters: Sequence[str], variant: str | None = None
) -> pd.DataFrame:
    """Accuracy and macro F1 of models of one family by its parameters (billard: table III).

    Parameters
    ----------
    models
        Those to show, in this order.
    parameters
        The parameters of the family that tell them apart.
    variant
        The variant of the scores; the main one where None.

    Returns
    -------
    DataFrame
        With a column for each parameter, and n_parameters: the number of weights.
    """
    variant = variant or source.main
    rows: list[Row] = []
    for model in source.scores.models([variant], models):
        label, told = TRIVIAL, {}
        if (about := source.about(variant, model)) is not None:
            told = {name: about["params"].get(name) for name in parameters}
            label = ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in told.items())
            told["n_parameters"] = about["n_parameters"]
        said = source.study.get("by_parameter", []) if told else []
        printed: Mapping[str, Any] = next(
            (one for one in said if all(one.get(name) == told[name] for name in parameters)), {}
        )
        for metric in ("accuracy", "macro_f1"):
            number = source.scores.number([variant], model, metric=metric, published=printed.get(metric))
            rows.append({"row": label, "column": in_words(metric), **number, **told})
    return _table(rows, *parameters, "n_parameters")


def class_scores(source: Source, *, variants: Sequence[str], models: Sequence[str] | None = None) -> pd.DataFrame:
    """Precision, recall and F1 of each class and their weighted average, models side by side (duque: table 1).

    A panel for each variant and score. What the study prints stands in the variant that is of its own kind
    (``published_variant``); a name there that is no model has a column of its own.

    Parameters
    ----------
    variants
        Those to show, one after the other.
    models
        Those to show; all that were trained in the variant where None.
    """
    rows: list[Row] = []
    for variant in variants:
        printed = source.study.get("class_scores", {}) if variant == source.study.get("published_variant") else {}
        shown = source.scores.models([variant], models)
        others = [name for name in printed if name not in {model for model, _ in shown}]
        for metric, average in WEIGHTED_SCORES.items():
            for name in (*source.classes, WEIGHTED):
                place = {
                    "panel": f"{variant}: {in_words(metric)}",
                    "row": f"{WEIGHTED} average" if name == WEIGHTED else name,
                }
                for model in shown:
                    said = printed.get(model[0], {}).get(name, {}).get(metric)
                    number = (
                        source.scores.number([variant], model, metric=average, published=said)
                        if name == WEIGHTED
                        else source.scores.number([variant], model, metric=metric, class_name=name, published=said)
                    )
                    # By the class and the score of its row: the average, too, is one of these.
                    own = {"class": name, "metric": metric}
                    rows.append({**place, "column": _label(model, shown), **number, **own})
                for other in others:
                    said = printed[other].get(name, {}).get(metric)
                    told = {"variant": variant, "model": other, "class": name, "metric": metric, "published": said}
                    rows.append({**place, "column": f"{other} (as printed)", **told})
    return _table(rows)


def transfer(source: Source, *, models: Sequence[str], variant: str | None = None) -> pd.DataFrame:
    """Scores of models that start from another experiment's weights, of others that do not, and of those weights.

    Parameters
    ----------
    models
        Those to show, in this order.
    variant
        The variant of the scores; the main one where None.

    Returns
    -------
    DataFrame
        With a column for the role (``pretrained``, ``without``, ``transferred`` or ``trivial``) and the experiment of
        those weights; each experiment has its trivial answer.
    """
    if source.before is None or source.start is None:
        raise ConfigError(f"tables.transfer: none of {', '.join(models)} has `init_from`; name a model that has")
    variant, start = variant or source.main, source.start
    shown: list[tuple[str, Scores, str, Model, str]] = [
        ("pretrained", source.before, start["variant"], (start["model"], start["loss"]), start["experiment"]),
        (TRIVIAL, source.before, start["variant"], (TRIVIAL, NONE), start["experiment"]),
    ]
    for model in source.scores.models([variant], models):
        about = source.about(variant, model)
        role = TRIVIAL if about is None else "transferred" if about.get("init_from") else "without"
        shown.append((role, source.scores, variant, model, ""))
    rows: list[Row] = []
    for role, scores, at, model, experiment in shown:
        said = source.study.get("transfer", {}).get(role, {})
        label = f"{model[0]} on {experiment}" if experiment else model[0]
        for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
            number = scores.number([at], model, metric=metric, published=said.get(metric))
            rows.append({"row": label, "column": in_words(metric), **number, "role": role, "experiment": experiment})
    return _table(rows, "role", "experiment")


def over_seeds(
    source: Source,
    *,
    variants: Sequence[str],
    models: Sequence[str] | None = None,
    metrics: Sequence[str] = SEED_SCORES,
) -> pd.DataFrame:
    """Overall scores and recalls as means over variants that differ by the seed of their split, and of each.

    Parameters
    ----------
    variants
        The variants to average.
    models
        Those to show; all that were trained in each of the variants where None.
    metrics
        The overall scores to show.
    """
    shown = source.scores.models(variants, models)
    rows: list[Row] = []
    for over in (list(variants), *([variant] for variant in variants)):
        panel = f"mean over {', '.join(over)}" if len(over) > 1 else over[0]
        for model in shown:
            numbers = {in_words(metric): source.scores.number(over, model, metric=metric) for metric in metrics}
            numbers |= {
                f"recall {name}": source.scores.number(over, model, metric="recall", class_name=name)
                for name in source.classes
            }
            place = {"panel": panel, "row": _label(model, shown)}
            rows += [{**place, "column": column, **told} for column, told in numbers.items()]
    return _table(rows)


KINDS: dict[str, Callable[..., pd.DataFrame]] = {
    kind.__name__: kind for kind in (accuracy_by_variant, by_parameter, class_scores, transfer, over_seeds)
}


def make(kind: str, source: Source, options: Mapping[str, Any]) -> pd.DataFrame:
    """Make the table of a kind.

    Raises
    ------
    ConfigError
        If there is no such kind or option, or two numbers would stand in one place.
    """
    if kind not in KINDS:
        raise ConfigError(f"tables.{kind}: is not one of {', '.join(KINDS)}")
    try:
        inspect.signature(KINDS[kind]).bind(source, **options)
    except TypeError as error:
        raise ConfigError(f"tables.{kind}: {error}; correct its options") from error
    table = KINDS[kind](source, **options)
    twice = table[table.duplicated(["panel", "row", "column"])]
    if len(twice):
        place = ", ".join(twice[["panel", "row", "column"]].iloc[0].dropna())
        raise ConfigError(f"tables.{kind}: two numbers stand in one place ({place}); tell them apart by its options")
    return table


def read_scores(scored: str | os.PathLike[str], split_paths: Mapping[str, str | os.PathLike[str]]) -> Scores:
    """Read ``metrics.csv``, and from the splits of its variants how many folds they have."""
    folds = {variant: int(splits.read(path)["fold"].nunique()) for variant, path in split_paths.items()}
    return Scores.of(evaluation.read_metrics(scored), folds)


def run(
    kind: str,
    *,
    options: Mapping[str, Any],
    scored: str | os.PathLike[str],
    split_paths: Mapping[str, str | os.PathLike[str]],
    models: Sequence[str | os.PathLike[str]],
    classes: Sequence[str],
    main: str,
    out: str | os.PathLike[str],
    study: str | os.PathLike[str] | None = None,
    scored_before: str | os.PathLike[str] | None = None,
    split_before: str | os.PathLike[str] | None = None,
    start: Mapping[str, str] | None = None,
) -> None:
    """Write one table as CSV.

    Parameters
    ----------
    kind, options
        One of `KINDS`, and its options.
    scored, split_paths
        ``metrics.csv``, and variant -> its split.
    models
        ``model.json`` of each training.
    classes
        Class names in the scheme's order.
    main
        The variant that figures show.
    out
        The file to write.
    study
        What the study says.
    scored_before, split_before, start
        Of `transfer`: ``metrics.csv`` and split of the experiment that its model starts from, and that training.
    """
    before = None
    if scored_before is not None and split_before is not None and start is not None:
        before = read_scores(scored_before, {start["variant"]: split_before})
    source = Source(
        scores=read_scores(scored, split_paths),
        classes=classes,
        models=[files.read_json(path) for path in models],
        study=evaluation.read_study(study),
        main=main,
        before=before,
        start=start,
    )
    files.write_csv(out, make(kind, source, options))
