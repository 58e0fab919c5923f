"""What a study claims, held against our numbers.

Each claim of a study names a measure, one of the functions in `stainfree.measures`. A measure gives a value with a 95 %
interval and a threshold. The claim holds where the whole interval lies on the side of the threshold that the claim
says, and does not hold where it lies wholly on the other; it cannot be told from these cells where the interval
straddles the threshold, or where what the measure needs was not made. Where a claim is about several models, its
measure is taken of each: all must hold, one that does not refutes it, and the row shows the one that decided.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stainfree import evaluation, files
from stainfree.errors import ConfigError
from stainfree.evidence import OPEN, Finding, Inputs, NotMadeError
from stainfree.measures import MEASURES

COLUMNS = ("id", "claim", "where", "measure", "value", "ci_low", "ci_high", "n_cells", "verdict", "note")


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
        return Finding(name.replace("_", " "), OPEN, note=f"Not measured: {missing}.")


def check(study: Mapping[str, Any], inputs: Inputs) -> pd.DataFrame:
    """Hold the claims of a study against the numbers.

    Parameters
    ----------
    study
        What the study says; its ``claims`` are a list of id, claim, where, measure and options, and of ``threshold:
        ours`` where the study names no threshold.
    inputs
        The files that the measures read.

    Returns
    -------
    DataFrame
        id, claim, where, measure (in words, with the threshold), value, ci_low, ci_high, n_cells, verdict, note.

    Raises
    ------
    ConfigError
        If a claim names a measure or an option that does not exist.
    """
    rows = []
    for claim in study.get("claims", []):
        found = _measure(claim, inputs)
        ours = ", a threshold of ours" if claim.get("threshold") == "ours" and not np.isnan(found.value) else ""
        rows.append(
            {
                "id": claim["id"],
                "claim": claim["claim"],
                "where": claim["where"],
                "measure": found.measure + ours,
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
    main: str = "",
    shares: str | os.PathLike[str] | None = None,
    cells_path: str | os.PathLike[str] | None = None,
) -> None:
    """Write ``claims.csv``.

    Parameters
    ----------
    study
        What the study says.
    models
        ``model.json`` of each training; its folder holds predictions and embeddings.
    out
        The CSV file to write.
    main
        The variant that measures are about unless they name another.
    shares
        ``saliency/shares.csv``, where saliency was computed.
    cells_path
        The cells file, for measures of DNA content.
    """
    said = evaluation.read_study(study)
    inputs = Inputs(
        models=[Path(path) for path in models],
        published_pairs=said.get("published_pairs", {}),
        shares=None if shares is None else Path(shares),
        main=main,
        cells=None if cells_path is None else Path(cells_path),
    )
    files.write_csv(out, check(said, inputs))
