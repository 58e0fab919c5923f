"""Hyper-parameters by cross-validation inside the training part of each fold.

The cells that train and validate in a fold are dealt anew into inner folds, stratified and grouped like the split
itself. A trial trains one set of settings on each of them, by the loop that trains everything else, and is worth the
mean score over their test cells. The fold's own test cells are not even read.

A search that was stopped goes on where it was. Optuna's sampler is seeded anew for each trial, so that its settings
follow from the seed, the fold, the number of the trial and the scores before it alone. Whoever begins again asks for
the same settings, finds the scores of finished trials in files, and goes on inside the trial that was under way, at the
checkpoint of its training. (Optuna's own storages keep trials that were under way as well, and its sampler then keeps
away from their settings: a search that was stopped would end differently.)
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from stainfree import checkpoints, files, metrics, models, predictions, splits, training
from stainfree.deadline import Deadline
from stainfree.errors import DataError, DivergedError, OutOfTimeError
from stainfree.plans import Data, Origin, Plan
from stainfree.schemes import Scheme
from stainfree.search import Search, Values

logger = logging.getLogger(__name__)

WORST = 0.0
"""What a trial is worth whose training diverged: the lowest that any of the metrics can be."""

_METRICS = {
    "accuracy": metrics.accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
    "macro_f1": metrics.macro_f1,
}
_CELL = ["cell_id", "stage", "source", "group", "origin"]


@dataclass(frozen=True)
class Trial:
    """One set of settings, and how well it did."""

    fold: int
    number: int
    """From 1."""
    settings: dict[str, Any]
    state: str
    """``finished``, ``diverged``, or ``repeated``: the settings of an earlier trial, whose scores these are."""
    scores: list[float]
    """Of the inner folds; none where a training diverged."""
    seconds: float
    """What its trainings took; of one that was stopped, the last attempt."""

    @property
    def score(self) -> float:
        """Mean over the inner folds."""
        return float(np.mean(self.scores)) if self.scores else WORST


def inner_split(split: pd.DataFrame, fold: int, *, folds: int, scheme: Scheme, seed: int) -> pd.DataFrame:
    """Deal the cells that train and validate in a fold into inner folds; the fold's test cells are left out.

    Parameters
    ----------
    split
        The split of the training (see `splits.draw`); cells of one group stay together here too.
    folds
        Number of inner folds. Each validates by the same share of its cells as the fold does.
    seed
        Seed of the dealing.

    Raises
    ------
    DataError
        If a class has fewer independent cells there than inner folds.
    """
    inside = split[(split["fold"] == fold) & (split["subset"] != "test")]
    spec = {"kind": "kfold", "folds": folds, "validation": float((inside["subset"] == "validation").mean())}
    try:
        return splits.draw(inside[_CELL], spec, scheme=scheme, seed=seed)
    except DataError as error:
        raise DataError(f"tune: the training part of fold {fold}: {error}") from error


def tune(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    search: Search,
    work: str | os.PathLike[str],
    deadline: Deadline | None = None,
) -> None:
    """Search the settings of a plan's model for each fold that it trains.

    Parameters
    ----------
    cells_path, split_path
        The cells, and the split that the training rests on.
    out
        Folder for ``best.json`` (for each fold the settings found, their score and the number of trials) and
        ``trials.csv`` (every trial).
    plan
        What is trained with the settings. Its first seed is that of the search, too.
    work
        Folder for unfinished work, safe to delete: a later call goes on from what stands there.
    deadline
        When this process must have ended; it changes no result.

    Raises
    ------
    DivergedError
        If all trials of a fold diverged.
    OutOfTimeError
        If the deadline is near: a later call goes on. Every call makes at least one step.
    TakenOverError
        If another process started on the same search meanwhile.
    """
    origin = Origin.read(cells_path, split_path, size=plan.model.image_size)
    cells_and_plan = plan.digest(cells_sha256=origin.cells_sha256, split_sha256=origin.split_sha256)
    unfinished = Path(work) / files.digest([cells_and_plan, dataclasses.asdict(search)])[:16]
    folds = list(dict.fromkeys(fold for fold, _ in plan.parts(origin.split)))
    # Drawn first: what cannot be dealt is refused before anything is trained.
    inner = {
        fold: inner_split(origin.split, fold, folds=search.folds, scheme=plan.scheme, seed=_seed(plan.seeds[0], fold))
        for fold in folds
    }
    clock = _Clock(deadline or Deadline())
    with checkpoints.owned(unfinished) as check_owner:
        trials: dict[int, list[Trial]] = {}
        for fold in folds:
            folder = unfinished / f"fold{fold}"
            files.write_parquet(folder / "split.parquet", inner[fold])
            data = training.prepare(cells_path, folder / "split.parquet", plan)
            trials[fold] = _search_fold(data, plan, search, fold=fold, folder=folder, clock=clock)
        files.write_csv(Path(out) / "trials.csv", _table(trials, search))
        found = [_told(plan, of_fold) for of_fold in trials.values()]
        files.write_json(Path(out) / "best.json", {"folds": found, "search": dataclasses.asdict(search)})
        check_owner()
        shutil.rmtree(unfinished)


@dataclass
class _Clock:
    """Asks before each training but the first whether there is time for it."""

    deadline: Deadline
    begun: bool = False

    def begin(self, what: str) -> None:
        if self.begun and self.deadline.is_near():
            raise OutOfTimeError(f"{what}: the job's time ends: all before it is saved; the next attempt goes on there")
        self.begun = True


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _search_fold(data: Data, plan: Plan, search: Search, *, fold: int, folder: Path, clock: _Clock) -> list[Trial]:
    """Make the trials of one fold, but for those that are finished already."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {key: _distribution(values) for key, values in search.space.items()}
    trials: list[Trial] = []
    done: dict[str, Trial] = {}
    for number in range(1, search.trials + 1):
        # The first third of the trials, at most ten, is drawn evenly: the sampler needs some to learn from.
        study.sampler = optuna.samplers.TPESampler(
            seed=_seed(plan.seeds[0], fold, number), n_startup_trials=min(10, -(-search.trials // 3))
        )
        asked = study.ask(distributions)
        settings = {key: _value(search.space[key], asked.params[key]) for key in search.space}
        key = json.dumps(settings)
        if key in done:
            trial = dataclasses.replace(done[key], number=number, state="repeated", seconds=0.0)
        else:
            place = folder / f"trial{number}"
            trial = done[key] = _read(place / "trial.json", settings) or _try(
                data, plan, search, fold=fold, number=number, settings=settings, folder=place, clock=clock
            )
        study.tell(asked, trial.score)
        trials.append(trial)
        best = _best(trials)
        logger.info(
            "fold %s, trial %s of %s: %s %.3f%s with %s; best so far %.3f (trial %s)",
            fold, number, search.trials, search.metric, trial.score,
            "" if trial.state == "finished" else f" ({trial.state})", _said(settings), best.score, best.number,
        )  # fmt: skip
    return trials


def _try(
    data: Data,
    plan: Plan,
    search: Search,
    *,
    fold: int,
    number: int,
    settings: dict[str, Any],
    folder: Path,
    clock: _Clock,
) -> Trial:
    """Train one set of settings on each inner fold, and write down what it is worth."""
    epochs = {} if search.epochs is None else {"epochs": search.epochs}
    model = models.with_settings(plan.model, {**settings, **epochs})
    model = dataclasses.replace(model, name=f"{model.name} (fold {fold}, trial {number})")
    of_trial = dataclasses.replace(plan, model=model, subsets=("test",), folds=None)
    state, seconds = "finished", 0.0
    scores: list[float] = []
    for inner in range(search.folds):
        part = folder / f"inner{inner}"
        if not (part / "part.json").is_file():
            clock.begin(f"{model.name} inner fold {inner}")
            try:
                training.fill_part(data, of_trial, fold=inner, seed=plan.seeds[0], folder=part, deadline=clock.deadline)
            except DivergedError as error:
                logger.warning("%s", error)
                state, scores = "diverged", []
                break
        scores.append(_score(part / "predictions.parquet", search.metric, plan.scheme.classes))
        seconds += files.read_json(part / "part.json")["seconds"]
    trial = Trial(fold, number, settings, state, scores, seconds)
    files.write_json(folder / "trial.json", dataclasses.asdict(trial))
    for part in folder.glob("inner*"):
        shutil.rmtree(part)
    return trial


def _score(path: Path, metric: str, classes: tuple[str, ...]) -> float:
    """Return the score of a table of predictions."""
    told = predictions.read(path)
    true, predicted = (
        pd.Categorical(told[column], categories=classes).codes.astype(np.int64) for column in ("class", "predicted")
    )
    return float(_METRICS[metric](metrics.confusion_matrix(true, predicted, n_classes=len(classes))))


def _read(path: Path, settings: Mapping[str, Any]) -> Trial | None:
    """Read a finished trial of these settings; None, with a warning, where the file holds anything else."""
    if not path.is_file():
        return None
    try:
        trial = Trial(**files.read_json(path))
        if trial.settings == settings and trial.score >= WORST:
            return trial
    except (ValueError, TypeError):
        pass
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    logger.warning("%s is not what was written there; set aside as %s, making this trial anew", path, aside.name)
    return None


def _distribution(values: Values) -> optuna.distributions.BaseDistribution:
    """Return what Optuna draws from; of a list, the position."""
    if isinstance(values, list):
        return optuna.distributions.CategoricalDistribution(tuple(range(len(values))))
    if isinstance(values["low"], int):
        return optuna.distributions.IntDistribution(**values)
    return optuna.distributions.FloatDistribution(**values)


def _value(values: Values, drawn: Any) -> Any:
    return values[drawn] if isinstance(values, list) else drawn


def _said(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()
    )


def _best(trials: list[Trial]) -> Trial:
    """Return the best trial; of equal ones the first, and one that diverged only where all did."""
    return max(trials, key=lambda trial: (bool(trial.scores), trial.score))


def _told(plan: Plan, trials: list[Trial]) -> dict[str, Any]:
    """Tell what came of a fold's trials."""
    best = _best(trials)
    if not best.scores:
        raise DivergedError(
            f"{plan.model.name}/{plan.loss}: all trials of fold {best.fold} diverged; lower the learning rates in "
            "`tune.space`, or `learning_rate` in the recipe"
        )
    return {"fold": best.fold, "settings": best.settings, "score": best.score, "trials": len(trials)}


def _table(trials: Mapping[int, list[Trial]], search: Search) -> pd.DataFrame:
    """Lay all trials out, one row each."""
    return pd.DataFrame(
        {
            "fold": trial.fold,
            "number": trial.number,
            "state": trial.state,
            "settings": json.dumps(trial.settings),
            **{f"score_{inner}": score for inner, score in enumerate(trial.scores or [np.nan] * search.folds)},
            "mean": trial.score,
            "seconds": round(trial.seconds, 2),
        }
        for of_fold in trials.values()
        for trial in of_fold
    )
