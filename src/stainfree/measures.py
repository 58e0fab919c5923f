"""The measures by which claims are judged: each takes the files of an experiment and options, and gives a `Finding`.

Claims about a model are about the loss that the study picked for it (the only one, where there is one alone), on the
test cells of the variant that figures show unless they name another, with all folds pooled. Two models, or one model in
two variants, are compared on the cells that both have tested, cell by cell: one may have run on fewer folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from stainfree import evaluation, metrics, predictions
from stainfree.errors import ConfigError
from stainfree.evidence import FAILS, HOLDS, OPEN, Finding, Inputs, NotMadeError, judge, of_each, threshold

N_BOOTSTRAP = 2000
SEED = 0
FEWEST_CELLS = 10
"""Of each group, for a bootstrap of how two groups of cells are ordered."""
DIFFERENCES = {
    "accuracy": metrics.accuracy,
    "weighted_f1": metrics.weighted_f1,
    "macro_f1": metrics.macro_f1,
}
"""Scores by which two models are compared by a bootstrap of their cells; balanced accuracy has a way of its own."""


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


def _compare(
    inputs: Inputs,
    first: tuple[str, str],
    second: tuple[str, str],
    *,
    metric: str,
    above: float | None = None,
    below: float | None = None,
) -> Finding:
    """Measure by how much a score of one training on test cells exceeds another's, cell by cell paired.

    `first` and `second` are (model, variant); an empty variant is the main one.
    """
    if metric != "balanced_accuracy" and metric not in DIFFERENCES:
        raise ConfigError(f"claim: metric {metric} is not one of balanced_accuracy, {', '.join(DIFFERENCES)}")
    keys = ["fold", "seed", "cell_id"]
    ours, theirs = (inputs.predictions(model, variant=variant) for model, variant in (first, second))
    table = ours.merge(theirs[[*keys, "predicted"]], on=keys, suffixes=("", "_other"))
    names = [f"{model} on {variant}" if first[1] != second[1] else model for model, variant in (first, second)]
    if table.empty:
        raise NotMadeError(f"{' and '.join(names)} were not tested on the same cells")
    classes = predictions.classes_of(ours)
    true, said, said_other = (
        evaluation.codes(table[column], classes) for column in ("class", "predicted", "predicted_other")
    )
    rng, weights = np.random.default_rng(SEED), evaluation.cell_weights(table)
    if metric == "balanced_accuracy":
        value, low, high = metrics.balanced_accuracy_difference(
            true, said == true, said_other == true, n_classes=len(classes), weights=weights, rng=rng
        )
    else:
        value, low, high = metrics.paired_difference(
            true, said, said_other, score=DIFFERENCES[metric], n_classes=len(classes), weights=weights, rng=rng,
            n_bootstrap=N_BOOTSTRAP,
        )  # fmt: skip
    n_cells, n_all = table["cell_id"].nunique(), max(one["cell_id"].nunique() for one in (ours, theirs))
    n_folds = table["fold"].nunique()
    return Finding(
        f"{metrics.in_words(metric)} on test cells of {names[0]} less that of {names[1]}; {threshold(above, below)}",
        judge(low, high, above=above, below=below),
        value,
        low,
        high,
        n_cells,
        f"On the {n_cells} of {n_all} cells that both have tested, {n_folds} fold{'s' if n_folds > 1 else ''}."
        if n_cells < n_all
        else "",
    )


def best_on_test(
    inputs: Inputs, *, model: str, rivals: Sequence[str], metric: str = "balanced_accuracy", variant: str = ""
) -> Finding:
    """Measure by how much a model's score on test cells exceeds each rival's."""
    return of_each(rivals, lambda rival: _compare(inputs, (model, variant), (rival, variant), metric=metric, above=0.0))


def difference_between_models(
    inputs: Inputs,
    *,
    pairs: Sequence[Sequence[str]],
    metric: str,
    variant: str = "",
    above: float | None = None,
    below: float | None = None,
) -> Finding:
    """Measure by how much the score of the first of each two models exceeds the second's, in one variant."""
    named = {f"{first} less {second}": (first, second) for first, second in pairs}

    def of_pair(name: str) -> Finding:
        first, second = named[name]
        return _compare(inputs, (first, variant), (second, variant), metric=metric, above=above, below=below)

    return of_each(list(named), of_pair)


def difference_between_variants(
    inputs: Inputs,
    *,
    models: Sequence[str],
    variants: Sequence[str],
    metric: str,
    above: float | None = None,
    below: float | None = None,
) -> Finding:
    """Measure by how much the score of a model in the first of two variants exceeds that in the second."""
    first, second = variants
    return of_each(
        models,
        lambda model: _compare(inputs, (model, first), (model, second), metric=metric, above=above, below=below),
    )


def _counts(table: pd.DataFrame, class_name: str, said: Sequence[str]) -> tuple[float, float]:
    """Return how many cells of a class are predicted as any of `said`, and how many the class has."""
    own = table[table["class"] == class_name]
    return float(own.loc[own["predicted"].isin(said), "weight"].sum()), float(own["weight"].sum())


def class_scores(
    inputs: Inputs,
    *,
    model: str,
    classes: Sequence[str],
    scores: Sequence[str],
    variant: str = "",
    above: float | None = None,
    below: float | None = None,
) -> Finding:
    """Measure the recall or the precision of each class on test cells; Wilson interval."""
    table = inputs.predictions(model, variant=variant)
    unknown = [name for name in scores if name not in ("recall", "precision")]
    if unknown:
        raise ConfigError(f"claim: score {unknown[0]} is not one of recall, precision")
    named = {f"{score} of {name}": (score, name) for name in classes for score in scores}

    def of_class(name: str) -> Finding:
        score, class_name = named[name]
        right, n = _counts(table, class_name, [class_name])
        if score == "precision":
            n = float(table.loc[table["predicted"] == class_name, "weight"].sum())
        if n == 0:
            raise NotMadeError(f"no test cell is {'' if score == 'recall' else 'called '}{class_name}")
        low, high = metrics.wilson(right, n)
        return Finding(
            f"{name} by {model}; {threshold(above, below)}",
            judge(low, high, above=above, below=below),
            right / n,
            low,
            high,
            round(n),
            f"{right:g} of {n:g} cells.",
        )

    return of_each(list(named), of_class)


def recall_contrast(
    inputs: Inputs,
    *,
    model: str,
    classes: Sequence[str],
    against: Sequence[str],
    variant: str = "",
    above: float | None = None,
    below: float | None = None,
) -> Finding:
    """Measure by how much the recall of each of `classes` exceeds that of each class `against`; Beta posteriors."""
    table = inputs.predictions(model, variant=variant)
    named = {f"{one} less {other}": (one, other) for one in classes for other in against}

    def of_two(name: str) -> Finding:
        counts = [_counts(table, one, [one]) for one in named[name]]
        if not all(n for _, n in counts):
            raise NotMadeError(f"{' or '.join(named[name])} has no test cell")
        rng = np.random.default_rng(SEED)
        draws = [rng.beta(right + 0.5, n - right + 0.5, size=metrics.BETA_DRAWS) for right, n in counts]
        value = counts[0][0] / counts[0][1] - counts[1][0] / counts[1][1]
        low, high = metrics.interval(draws[0] - draws[1], value)
        return Finding(
            f"recall by {model} of {' less that of '.join(named[name])}; {threshold(above, below)}",
            judge(low, high, above=above, below=below),
            value,
            low,
            high,
            round(sum(n for _, n in counts)),
        )

    return of_each(list(named), of_two)


def taken_for(
    inputs: Inputs, *, model: str, class_name: str, others: Sequence[str], above: float, variant: str = ""
) -> Finding:
    """Measure the share of a class's wrongly predicted test cells that are taken for any of `others`; Wilson."""
    table = inputs.predictions(model, variant=variant)
    right, n = _counts(table, class_name, [class_name])
    if right == n:
        raise NotMadeError(f"{model} predicts no {class_name} cell wrongly")
    said, wrong = _counts(table, class_name, others)[0], n - right
    low, high = metrics.wilson(said, wrong)
    return Finding(
        f"share of the {class_name} cells predicted wrongly by {model} that are taken for {' or '.join(others)}; "
        f"holds above {above:g}",
        judge(low, high, above=above),
        said / wrong,
        low,
        high,
        round(wrong),
        f"{right / n:.0%} of {round(n)} {class_name} cells are predicted right.",
    )


def order_within_class(
    inputs: Inputs,
    *,
    models: Sequence[str],
    class_name: str,
    lower: str,
    higher: str,
    above: float,
    variant: str = "",
) -> Finding:
    """Measure whether the cells of a class that are taken for `higher` hold more DNA than those taken for `lower`.

    Of two such test cells, one of each kind, the probability that the first has the higher DNA content: one half where
    a model's errors have nothing to do with it. Bootstrap of the two kinds apart, or, where each cell of one holds more
    than each of the other, Wilson of as many cells as the smaller kind has; of several seeds, each cell with what the
    first seed says of it.
    """
    content = inputs.dna_content()

    def of_model(model: str) -> Finding:
        table = inputs.predictions(model, variant=variant).drop_duplicates("cell_id")
        table = table[(table["class"] == class_name) & table["predicted"].isin([lower, higher])]
        is_higher = (table["predicted"] == higher).to_numpy()
        counts = {lower: int((~is_higher).sum()), higher: int(is_higher.sum())}
        if min(counts.values()) < FEWEST_CELLS:
            few = min(counts, key=lambda name: counts[name])
            raise NotMadeError(f"{model} takes {counts[few]} {class_name} cells for {few}, fewer than {FEWEST_CELLS}")
        value, low, high = metrics.ranking_area(
            content.loc[table["cell_id"]].to_numpy(dtype=np.float64),
            is_higher,
            rng=np.random.default_rng(SEED),
            n_bootstrap=N_BOOTSTRAP,
        )
        if low == high:  # all in order, so that no resample has any out of it
            low, high = metrics.wilson(value * min(counts.values()), min(counts.values()))
        return Finding(
            f"probability that of two {class_name} cells, one taken for {higher} by {model} and one for {lower}, the "
            f"first holds more DNA; holds above {above:g}",
            judge(low, high, above=above),
            value,
            low,
            high,
            len(table),
            f"{counts[lower]} {class_name} cells are taken for {lower}, {counts[higher]} for {higher}.",
        )

    return of_each(models, of_model)


# Measures of training


def stopped_before(inputs: Inputs, *, step: int, above: float) -> Finding:
    """Measure the share of trainings, of all models, losses, folds and seeds, whose last step is before `step`."""
    trainings = inputs.main_trainings().values()
    # A model that is not trained by steps has none.
    last = [part["last_step"] for about in trainings for part in about["parts"] if part["last_step"] > 0]
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
        for (model, loss), about in inputs.main_trainings().items()
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
    limit = chance if above == "chance" else float(above)
    return Finding(
        f"share of the {k} nearest neighbours of {class_name} cells that are {class_name}"
        + (f", among {' and '.join(among)}" if among else "")
        + f"; holds above {limit:.3g}"
        + (", which is chance" if above == "chance" else ""),
        judge(low, high, above=limit),
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
        difference_between_models,
        difference_between_variants,
        class_scores,
        recall_contrast,
        taken_for,
        order_within_class,
        stopped_before,
        training_time,
        saliency_on_cell,
        saliency_contrast,
        saliency_peaks,
        embedding_purity,
    )
}
