"""What a claim is judged by: the files of an experiment, and what an interval says of a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stainfree import cells, evaluation, files
from stainfree.errors import ConfigError

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


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


def threshold(above: float | None, below: float | None) -> str:
    """Say in words when a claim holds, for the measure's text."""
    return f"holds below {below:g}" if above is None else f"holds above {above:g}"


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
    """``model.json`` of each training; predictions and embeddings lie beside it."""
    published_pairs: Mapping[str, str]
    """Model -> the loss that the study picked."""
    shares: Path | None = None
    """``saliency/shares.csv``."""
    main: str = ""
    """The variant that measures are about unless they name another; the first training's where empty."""
    cells: Path | None = None
    """The cells file, for their DNA content."""
    _predictions: dict[Path, pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def trainings(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """(variant, model, loss) -> what its ``model.json`` says, with the folder as ``folder``."""
        said = {path: files.read_json(path) for path in self.models}
        return {
            (about["variant"], about["model"], about["loss"]): {**about, "folder": path.parent}
            for path, about in said.items()
        }

    @property
    def main_variant(self) -> str:
        """The variant that measures are about unless they name another."""
        return self.main or next((variant for variant, _, _ in self.trainings), "")

    def main_trainings(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(model, loss) -> what ``model.json`` says of the training in the main variant."""
        main = self.main_variant
        return {(model, loss): told for (variant, model, loss), told in self.trainings.items() if variant == main}

    def loss_of(self, model: str, variant: str = "") -> str:
        """Return the loss that the study picked for a model; the only one that there is, where it picked none."""
        if model in self.published_pairs:
            return self.published_pairs[model]
        there = [loss for at, name, loss in self.trainings if (at, name) == (variant or self.main_variant, model)]
        if not there:
            raise NotMadeError(f"{model} was not trained" + (f" in {variant}" if variant else ""))
        if len(there) > 1:
            raise NotMadeError(f"the study picked no loss for {model}")
        return there[0]

    def training(self, model: str, loss: str | None = None, *, variant: str = "") -> dict[str, Any]:
        """Return what is said of one training; of the study's own pair where no loss is given."""
        pair = (model, loss or self.loss_of(model, variant))
        found = self.trainings.get((variant or self.main_variant, *pair))
        if found is None:
            raise NotMadeError(f"{' under '.join(pair)} was not trained" + (f" in {variant}" if variant else ""))
        return found

    def predictions(
        self, model: str, loss: str | None = None, *, subset: str = "test", variant: str = ""
    ) -> pd.DataFrame:
        """Return the predictions of one training on one subset, all folds and seeds, with a `weight` per row."""
        folder = self.training(model, loss, variant=variant)["folder"]
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

    def dna_content(self) -> pd.Series[float]:
        """Return the DNA content of the cells, by cell_id."""
        table = cells.read_table(self.cells) if self.cells is not None else pd.DataFrame()
        if "dna_content" not in table:
            raise NotMadeError("the DNA content of these cells is not known")
        return table.set_index("cell_id")["dna_content"]

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
