"""What a study claims, held against our numbers.

Each claim of a study names a measure, one of the functions in `MEASURES`. A measure gives a value with a 95 % interval
and a threshold. The claim holds where the whole interval lies on the side of the threshold that the claim says, and
does not hold where it lies wholly on the other; it cannot be told from these cells where the interval straddles the
threshold, or where what the measure needs was not made. Where a claim is about several models, its measure is taken of
each: all must hold, one that does not refutes it, and the row shows the one that decided.

Claims about a model are about the loss that the study picked for it, on the test cells, with all folds pooled.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from stainfree import evaluation, files, metrics, predictions
from stainfree.errors import ConfigError

COLUMNS = ("claim", "where", "measure", "value", "ci_low", "ci_high", "n_cells", "verdict", "note")
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
N_BOOTSTRAP = 2000
SEED = 0


class NotMadeError(Exception):
    """What a measure needs is not there: the claim cannot be told. The text says what is missing."""


@dataclass(frozen=True)
class Finding:
    """A measure's value, its interval, and what the interval says of the claim."""

    measure: str
    """The measure in words, with its threshold."""
    verdict: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n_cells: int | None = None
    """Cells behind the value; None where it is not about cells."""
    note: str = ""


def judge(low: float, high: float, *, above: float | None = None, below: float | None = None) -> str:
    """Compare an interval with the threshold above, or below, which a claim says the value is."""
    if (above is None) == (below is None):
        raise ConfigError("claim: give either `above` or `below`")
    if np.isnan(low) or np.isnan(high):
        return OPEN
    if above is not None:
        return HOLDS if low > above else FAILS if high < above else OPEN
    assert below is not None
    return HOLDS if high < below else FAILS if low > below else OPEN


def of_each(names: Sequence[str], measure: Callable[[str], Finding]) -> Finding:
    """Take a measure of several models, and join the findings into that of the model that decides.

    Raises
    ------
    NotMadeError
        If none of them can be measured.
    """
    findings: dict[str, Finding] = {}
    for name in names:
        try:
            findings[name] = measure(name)
        except NotMadeError as missing:
            if len(names) == 1:
                raise
            findings[name] = Finding("", OPEN, note=str(missing))
    measured = [name for name, found in findings.items() if found.measure]
    if not measured:
        raise NotMadeError("; ".join(dict.fromkeys(found.note for found in findings.values())))
    # One that refutes decides; else one that is open; else the first.
    rank = (FAILS, OPEN, HOLDS)
    deciding = min(measured, key=lambda name: rank.index(findings[name].verdict))
    verdict = min((found.verdict for found in findings.values()), key=rank.index)
    if len(names) == 1:
        return findings[deciding]
    listed = "; ".join(
        f"{name} {found.verdict} ({found.value:.3g}, {found.low:.3g} to {found.high:.3g})"
        if found.measure
        else f"{name} {found.verdict} ({found.note})"
        for name, found in findings.items()
    )
    note = " ".join([f"Shown: {deciding}.", findings[deciding].note, f"{listed}."]).replace("  ", " ")
    return replace(findings[deciding], verdict=verdict, note=note)


@dataclass(frozen=True)
class Inputs:
    """The files that measures read; each is read when first asked for."""

    models: Sequence[Path]
    """``model.json`` of each training of one variant; predictions and embeddings lie beside it."""
    published_pairs: Mapping[str, str]
    """Model -> the loss that the study picked."""
    shares: Path | None = None
    """``saliency/shares.csv``."""
    _predictions: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def trainings(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(model, loss) -> what its ``model.json`` says, with the folder as ``folder``."""
        said = {path: files.read_json(path) for path in self.models}
        return {(about["model"], about["loss"]): {**about, "folder": path.parent} for path, about in said.items()}

    def loss_of(self, model: str) -> str:
        """Return the loss that the study picked for a model."""
        if model not in self.published_pairs:
            raise NotMadeError(f"the study picked no loss for {model}")
        return self.published_pairs[model]

    def training(self, model: str, loss: str | None = None) -> dict[str, Any]:
        """Return what is said of one training; of the study's own pair where no loss is given."""
        pair = (model, loss or self.loss_of(model))
        if pair not in self.trainings:
            raise NotMadeError(f"{' under '.join(pair)} was not trained")
        return self.trainings[pair]

    def predictions(self, model: str, loss: str | None = None, *, subset: str = "test") -> pd.DataFrame:
        """Return the predictions of one training on one subset, all folds and seeds, with a `weight` per row."""
        folder = self.training(model, loss)["folder"]
        path = folder / "predictions.parquet"
        if not path.is_file():
            raise NotMadeError(f"{model} has no predictions")
        if folder not in self._predictions:
            self._predictions[folder] = evaluation.read_predictions(path)
        table = self._predictions[folder]
        table = table[table["subset"] == subset]
        if table.empty:
            raise NotMadeError(f"{model} has no predictions of {subset} cells")
        return table.assign(weight=evaluation.cell_weights(table))

    def saliency(self, model: str, *, method: str) -> pd.DataFrame:
        """Return the saliency shares of one model, of the study's own pair."""
        if self.shares is None or not self.shares.is_file():
            raise NotMadeError("no saliency was computed")
        table = pd.read_csv(self.shares)
        table = table[(table["model"] == model) & (table["loss"] == self.loss_of(model)) & (table["method"] == method)]
        if table.empty:
            raise NotMadeError(f"no {method} saliency of {model} under {self.loss_of(model)} was computed")
        return table

    def embeddings(self, model: str) -> pd.DataFrame:
        """Return the embeddings of test cells by the study's own pair of a model."""
        path = self.training(model)["folder"] / "embeddings.parquet"
        if not path.is_file():
            raise NotMadeError(f"{model} has no embeddings")
        table = pd.read_parquet(path)
        return table[table["subset"] == "test"]


# Shared arithmetic


def stratified_mean(
    values: npt.NDArray[np.floating], strata: npt.NDArray[Any], *, seed: int = SEED
) -> tuple[float, float, float]:
    """Mean over the classes of the class means, with a class-stratified percentile bootstrap.

    Parameters
    ----------
    values, strata
        (cell,) finite values, and their classes.
    seed
        Seed of the bootstrap.

    Returns
    -------
    tuple of float
        Value, lower and upper end; the ends are NaN where fewer than three cells leave nothing to resample.
    """
    rng = np.random.default_rng(seed)
    groups = [values[strata == name] for name in np.unique(strata)]
    value = float(np.mean([group.mean() for group in groups]))
    if len(values) < 3:
        return value, np.nan, np.nan
    draws = np.mean(
        [group[rng.integers(0, len(group), size=(N_BOOTSTRAP, len(group)))].mean(axis=1) for group in groups], axis=0
    )
    return value, *metrics.interval(draws, value)


def _confusion(table: pd.DataFrame, classes: Sequence[str]) -> metrics.Floats:
    return metrics.confusion_matrix(
        evaluation.codes(table["class"], classes),
        evaluation.codes(table["predicted"], classes),
        n_classes=len(classes),
        weights=table["weight"].to_numpy(),
    )


# Measures of predictions


def predicted_share(
    inputs: Inputs, *, models: Sequence[str], classes: Sequence[str], of_true_share: float, loss: str | None = None
) -> Finding:
    """Measure the share of test cells that a model predicts as any of `classes`, which a claim says it never does.

    The threshold is `of_true_share` times the classes' own share of the test cells: a model that never says a class can
    be told from one that does only where the cells are enough to see that share. Wilson interval.
    """

    def of_model(model: str) -> Finding:
        table = inputs.predictions(model, loss)
        n = float(table["weight"].sum())
        said = table.loc[table["predicted"].isin(classes), "weight"].sum()
        true_share = table.loc[table["class"].isin(classes), "weight"].sum() / n
        low, high = metrics.wilson(said, n)
        below = of_true_share * true_share
        return Finding(
            f"share of test cells predicted as {' or '.join(classes)}; holds below {below:.2%}, "
            f"{of_true_share:g} of their own share",
            judge(low, high, below=below) if true_share > 0 else OPEN,
            said / n,
            low,
            high,
            round(n),
            f"{said:g} of {round(n)} cells." if true_share > 0 else f"No test cell is {' or '.join(classes)}.",
        )

    return of_each(models, of_model)


def training_gap(inputs: Inputs, *, models: Sequence[str], below: float) -> Finding:
    """Measure balanced accuracy on training cells less that on test cells, with the Beta posteriors of the recalls.

    Over the classes that both subsets have.
    """

    def of_model(model: str) -> Finding:
        tables = {subset: inputs.predictions(model, subset=subset) for subset in ("train", "test")}
        classes = predictions.classes_of(tables["test"])
        counts = {subset: _confusion(table, classes) for subset, table in tables.items()}
        both = np.all([count.sum(axis=1) > 0 for count in counts.values()], axis=0)
        counts = {subset: np.where(both[:, None], count, 0.0) for subset, count in counts.items()}
        rng = np.random.default_rng(SEED)
        value = float(metrics.balanced_accuracy(counts["train"]) - metrics.balanced_accuracy(counts["test"]))
        draws = metrics.balanced_accuracy_draws(counts["train"], rng=rng)
        low, high = metrics.interval(draws - metrics.balanced_accuracy_draws(counts["test"], rng=rng), value)
        absent = [name for name, is_there in zip(classes, both, strict=True) if not is_there]
        return Finding(
            f"balanced accuracy on training less that on test cells; holds below {below:g}",
            judge(low, high, below=below),
            value,
            low,
            high,
            int(tables["test"]["cell_id"].nunique()),
            f"Without {', '.join(absent)}, which has no cells in train or test." if absent else "",
        )

    return of_each(models, of_model)


def best_on_test(inputs: Inputs, *, model: str, rivals: Sequence[str]) -> Finding:
    """Measure by how much a model's balanced accuracy on test cells exceeds each rival's, cell by cell paired."""

    def against(rival: str) -> Finding:
        keys = ["fold", "seed", "cell_id"]
        first = inputs.predictions(model)
        second = inputs.predictions(rival)[[*keys, "predicted"]]
        table = first.merge(second, on=keys, suffixes=("", "_rival"))
        if len(table) < len(first):
            raise NotMadeError(f"{model} and {rival} were not tested on the same cells")
        classes = predictions.classes_of(first)
        value, low, high = metrics.balanced_accuracy_difference(
            evaluation.codes(table["class"], classes),
            (table["predicted"] == table["class"]).to_numpy(),
            (table["predicted_rival"] == table["class"]).to_numpy(),
            n_classes=len(classes),
            weights=table["weight"].to_numpy(),
            rng=np.random.default_rng(SEED),
        )
        return Finding(
            f"balanced accuracy on test cells of {model} less that of each rival; holds above 0",
            judge(low, high, above=0.0),
            value,
            low,
            high,
            int(table["cell_id"].nunique()),
        )

    return of_each(rivals, against)


# Measures of training


def stopped_before(inputs: Inputs, *, step: int, above: float) -> Finding:
    """Measure the share of trainings, of all models, losses, folds and seeds, whose last step is before `step`."""
    last = [part["last_step"] for about in inputs.trainings.values() for part in about["parts"]]
    if not last:
        raise NotMadeError("no training was found")
    early = sum(at < step for at in last)
    low, high = metrics.wilson(early, len(last))
    return Finding(
        f"share of trainings that end before step {step}; holds above {above:g}",
        judge(low, high, above=above),
        early / len(last),
        low,
        high,
        None,
        f"{early} of {len(last)} trainings (all models and losses); last steps {min(last)} to {max(last)}.",
    )


def training_time(inputs: Inputs, *, minutes: float) -> Finding:
    """Measure the longest training in minutes; it is one number, so there is no interval."""
    seconds = {
        f"{model} under {loss}": part["seconds"]
        for (model, loss), about in inputs.trainings.items()
        for part in sorted(about["parts"], key=lambda part: float(part["seconds"]))
    }
    if not seconds:
        raise NotMadeError("no training was found")
    slowest = max(seconds, key=lambda name: seconds[name])
    longest = seconds[slowest] / 60
    return Finding(
        f"longest training in minutes; holds below {minutes:g}",
        HOLDS if longest < minutes else FAILS,
        longest,
        note=f"{slowest}, on the machine of this run and at this number of cells; no interval.",
    )


# Measures of saliency


def _enrichment(table: pd.DataFrame) -> pd.Series[float]:
    """How many times the share of saliency on the cell is that of a map without preference; by cell_id."""
    table = table[table["mask_fraction"] > 0].set_index("cell_id")
    ratio = table["share_inside"] / table["mask_fraction"]
    return ratio[np.isfinite(ratio)]


def saliency_on_cell(inputs: Inputs, *, models: Sequence[str], method: str, above: float) -> Finding:
    """Measure the share of saliency on the cell, over the cell's share of the frame; 1 is no preference.

    Mean over the classes of the class means, since the explained cells are dealt out evenly over classes.
    """

    def of_model(model: str) -> Finding:
        table = inputs.saliency(model, method=method)
        ratio = _enrichment(table)
        if ratio.empty:
            raise NotMadeError(f"no cell explained by {model} has a mask")
        table = table.set_index("cell_id").loc[ratio.index]
        value, low, high = stratified_mean(ratio.to_numpy(), table["class"].to_numpy())
        return Finding(
            f"share of {method} saliency inside the cell's mask over the mask's share of the frame; "
            f"holds above {above:g}",
            judge(low, high, above=above),
            value,
            low,
            high,
            len(ratio),
            f"On average {table['share_inside'].mean():.0%} of the saliency on {table['mask_fraction'].mean():.0%} of "
            "the frame.",
        )

    return of_each(models, of_model)


def saliency_contrast(inputs: Inputs, *, models: Sequence[str], against: str, method: str) -> Finding:
    """Measure how much more the saliency of a model lies on the cell than another's, on the same cells."""
    other = inputs.saliency(against, method=method)
    classes = other.set_index("cell_id")["class"]

    def of_model(model: str) -> Finding:
        difference = (_enrichment(inputs.saliency(model, method=method)) - _enrichment(other)).dropna()
        if difference.empty:
            raise NotMadeError(f"{model} and {against} explain no cell in common")
        value, low, high = stratified_mean(difference.to_numpy(), classes.loc[difference.index].to_numpy())
        return Finding(
            f"times that the cell draws its share of {method} saliency, less the same for {against}; holds above 0",
            judge(low, high, above=0.0),
            value,
            low,
            high,
            len(difference),
        )

    return of_each(models, of_model)


def saliency_peaks(inputs: Inputs, *, model: str, class_name: str, n_peaks: int, method: str, above: float) -> Finding:
    """Measure the share of a class's cells, of those the model is right about, whose saliency has `n_peaks` peaks.

    Right and wrong are told by the model itself under the study's loss, not by the judge that picked the cells.
    """
    table = inputs.saliency(model, method=method)
    table = table[table["class"] == class_name]
    right = table[table["model_right"]]
    if right.empty:
        raise NotMadeError(f"{model} is right about no explained {class_name} cell")
    found, wrong = int((right["n_peaks"] == n_peaks).sum()), table[~table["model_right"]]
    low, high = metrics.wilson(found, len(right))
    return Finding(
        f"share of the {class_name} cells predicted right whose {method} saliency has {n_peaks} peaks; "
        f"holds above {above:g}",
        judge(low, high, above=above),
        found / len(right),
        low,
        high,
        len(right),
        f"{found} of {len(right)} cells; of those predicted wrong, "
        f"{(wrong['n_peaks'] == n_peaks).sum()} of {len(wrong)}.",
    )


# Measures of embeddings


def purity(vectors: npt.NDArray[np.floating], member: npt.NDArray[np.bool_], *, k: int) -> metrics.Floats:
    """Share of each member's nearest neighbours that are members too, itself left out.

    Parameters
    ----------
    vectors
        (cell, dimension).
    member
        (cell,) whether the cell is of the class.
    k
        Neighbours to ask; of a class with fewer other cells, as many as it has, so that 1 can be reached.

    Returns
    -------
    ndarray of float64
        (member,).
    """
    k = min(k, int(member.sum()) - 1)
    # Of cells in one place the search may leave out another than the cell itself, hence the explicit exclusion.
    index = NearestNeighbors(n_neighbors=k + 1).fit(vectors).kneighbors(vectors[member], return_distance=False)
    is_self = index == np.flatnonzero(member)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shares: metrics.Floats = member[index[~is_self].reshape(len(index), k)].mean(axis=1)
    return shares


def embedding_purity(
    inputs: Inputs,
    *,
    model: str,
    class_name: str,
    above: float | str,
    k: int = 5,
    among: Sequence[str] | None = None,
) -> Finding:
    """Measure the share of nearest neighbours of a class's cells that are of the same class, leaving the cell out.

    Neighbours are sought in the embedding itself, not in its projection, among the test cells of the same part (and
    of the classes `among`), since the embeddings of two parts have nothing in common. `above` is a number or
    ``chance``: the share of the class among the cells asked. A cell that several parts embedded (seeds) counts
    once, with its mean. Bootstrap over the cells of the class; Wilson where all fare alike.
    """
    table = inputs.embeddings(model)
    table = table[table["class"].isin(among)] if among else table
    columns = [name for name in table.columns if name[:1] == "e" and name[1:].isdigit()]
    found = []
    for _, part in table.groupby(["fold", "seed"], sort=True):
        member = (part["class"] == class_name).to_numpy()
        n = int(member.sum())
        if n >= 2:
            shares = purity(part[columns].to_numpy(dtype=np.float64), member, k=k)
            own = {"cell_id": part["cell_id"][member], "share": shares, "chance": (n - 1) / (len(part) - 1), "n": n}
            found.append(pd.DataFrame(own))
    if not found:
        raise NotMadeError(f"{model} has embedded fewer than two test cells of {class_name} in any part")
    # Several seeds say more of the same cells; they are no further cells.
    per_cell = pd.concat(found).groupby("cell_id").mean()
    n_cells, fewest, chance = len(per_cell), min(int(part["n"].iloc[0]) for part in found), per_cell["chance"].mean()
    value, low, high = stratified_mean(per_cell["share"].to_numpy(), np.zeros(n_cells))
    if low == high:
        low, high = metrics.wilson(per_cell["share"].sum(), n_cells)
    threshold = chance if above == "chance" else float(above)
    return Finding(
        f"share of the {k} nearest neighbours of {class_name} cells that are {class_name}"
        + (f", among {' and '.join(among)}" if among else "")
        + f"; holds above {threshold:.3g}"
        + (", which is chance" if above == "chance" else ""),
        judge(low, high, above=threshold),
        value,
        low,
        high,
        n_cells,
        f"Chance is {chance:.2%}." + ("" if fewest > k else f" Of {fewest} cells, {fewest - 1} neighbours are asked."),
    )


MEASURES: dict[str, Callable[..., Finding]] = {
    measure.__name__: measure
    for measure in (
        predicted_share,
        training_gap,
        best_on_test,
        stopped_before,
        training_time,
        saliency_on_cell,
        saliency_contrast,
        saliency_peaks,
        embedding_purity,
    )
}


def _measure(claim: Mapping[str, Any], inputs: Inputs) -> Finding:
    """Take the measure that a claim names."""
    name = claim.get("measure")
    if name not in MEASURES:
        raise ConfigError(f"claim {claim.get('id')}: measure {name} is not one of {', '.join(MEASURES)}")
    measure, options = MEASURES[name], claim.get("options", {})
    try:
        inspect.signature(measure).bind(inputs, **options)
    except TypeError as error:
        raise ConfigError(f"claim {claim.get('id')}: {name}: {error}; correct `options`") from error
    try:
        return measure(inputs, **options)
    except NotMadeError as missing:
        text = str(missing)
        return Finding(name.replace("_", " "), OPEN, note=f"{text[0].upper()}{text[1:]}.")


def check(study: Mapping[str, Any], inputs: Inputs) -> pd.DataFrame:
    """Hold the claims of a study against the numbers.

    Parameters
    ----------
    study
        What the study says; its ``claims`` are a list of id, claim, where, measure and options.
    inputs
        The files that the measures read.

    Returns
    -------
    DataFrame
        claim, where, measure (in words, with the threshold), value, ci_low, ci_high, n_cells, verdict, note.

    Raises
    ------
    ConfigError
        If a claim names a measure or an option that does not exist.
    """
    rows = []
    for claim in study.get("claims", []):
        found = _measure(claim, inputs)
        rows.append(
            {
                "claim": claim["claim"],
                "where": claim["where"],
                "measure": found.measure,
                "value": found.value,
                "ci_low": found.low,
                "ci_high": found.high,
                "n_cells": found.n_cells,
                "verdict": found.verdict,
                "note": found.note,
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"n_cells": "Int64", "value": float, "ci_low": float, "ci_high": float})


def run(
    study: str | os.PathLike[str] | None,
    *,
    models: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    shares: str | os.PathLike[str] | None = None,
) -> None:
    """Write ``claims.csv``.

    Parameters
    ----------
    study
        What the study says.
    models
        ``model.json`` of each training of the variant to look at; its folder holds predictions and embeddings.
    out
        The CSV file to write.
    shares
        ``saliency/shares.csv``, where saliency was computed.
    """
    said = evaluation.read_study(study)
    inputs = Inputs(
        models=[Path(path) for path in models],
        published_pairs=said.get("published_pairs", {}),
        shares=None if shares is None else Path(shares),
    )
    files.write_csv(out, check(said, inputs))
