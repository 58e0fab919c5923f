"""Embedding maps: the last layer of a model, laid out in three dimensions by UMAP.

Embeddings of different parts of a training live in different spaces, so a map shows one named part: one fold and
seed. Thinning a large class is for the eye only; it happens after the projection, as in the espinosa study, and every
cell keeps its coordinates in the table.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import umap

from stainfree import files
from stainfree.errors import DataError
from stainfree.explain import marked_pairs

logger = logging.getLogger(__name__)

FEWEST_CELLS = 4
N_NEIGHBORS = 15
"""UMAP's own default (McInnes et al., arXiv:1802.03426)."""


def project(
    values: npt.NDArray[np.float32], *, n_components: int = 3, random_state: int = 0
) -> npt.NDArray[np.float32]:
    """Lay out embeddings by UMAP (McInnes et al., arXiv:1802.03426), the same way every time.

    Parameters
    ----------
    values
        (n, d) embeddings, n at least 4.
    n_components
        Dimensions of the map.
    random_state
        Seed. UMAP is then single-threaded, which is what makes it repeatable.

    Returns
    -------
    ndarray of float32
        (n, n_components), in UMAP's arbitrary unit.
    """
    n_neighbors = min(N_NEIGHBORS, len(values) - 1)
    # The spectral start needs more cells than it has dimensions, with room for its solver.
    start = "spectral" if len(values) > 2 * N_NEIGHBORS else "random"
    reducer = umap.UMAP(
        n_components=n_components, n_neighbors=n_neighbors, init=start, random_state=random_state, n_jobs=1
    )
    with warnings.catch_warnings():
        # A few far-off cells may make the neighbour graph fall apart; UMAP then starts each piece on its own.
        warnings.filterwarnings("ignore", message="Graph is not fully connected", category=UserWarning)
        return np.asarray(reducer.fit_transform(values), dtype=np.float32)


def thinned(classes: pd.Series, thin: Mapping[str, int], *, random_state: int = 0) -> npt.NDArray[np.bool_]:
    """Say which cells are drawn: all, but at most `thin[class]` of a class, chosen at random.

    Parameters
    ----------
    classes
        (n,) class of each cell.
    thin
        Class -> most cells drawn.
    random_state
        Seed of the choice.
    """
    rng = np.random.default_rng(random_state)
    drawn = np.ones(len(classes), dtype=bool)
    for name, most in thin.items():
        at = np.flatnonzero(classes.to_numpy() == name)
        drawn[rng.permutation(at)[most:]] = False
    return drawn


def embed(
    embeddings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    model: str,
    loss: str,
    fold: int,
    seed: int,
    n_components: int = 3,
    thin: Mapping[str, int] | None = None,
    random_state: int = 0,
) -> None:
    """Lay out the test embeddings of one part, and write the map's coordinates.

    Parameters
    ----------
    embeddings
        Parquet of a training: cell_id, fold, seed, subset, class, e0, e1, ...
    out
        Parquet to write: cell_id, class, subset, model, loss, fold, seed, u0, u1, ..., drawn.
    model, loss
        Whose embeddings they are.
    fold, seed
        The part.
    n_components
        Dimensions of the map.
    thin
        Class -> most cells drawn; ``{"Interphase": 300}`` where None.
    random_state
        Seed of the layout and of the thinning.

    Raises
    ------
    DataError
        If the file has no such part, fewer than 4 test cells of it, or embeddings that are not finite.
    """
    table = pd.read_parquet(embeddings)
    part = table[(table["fold"] == fold) & (table["seed"] == seed)]
    if part.empty:
        known = ", ".join(f"({f}, {s})" for f, s in table[["fold", "seed"]].drop_duplicates().itertuples(index=False))
        raise DataError(f"{embeddings}: has no part of fold {fold} and seed {seed}; it has (fold, seed) {known}")
    part = part[part["subset"] == "test"].reset_index(drop=True)
    if len(part) < FEWEST_CELLS:
        raise DataError(
            f"{embeddings}: fold {fold}, seed {seed} has {len(part)} test cells; a map needs at least {FEWEST_CELLS}, "
            "so make the test part larger or take `embedding` out of the experiment's figures"
        )
    columns = [name for name in part.columns if name.startswith("e") and name[1:].isdigit()]
    values = part[columns].to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{embeddings}: embeddings of fold {fold}, seed {seed} are not finite; the training diverged")
    logger.info("laying out %d cells of %s, %s, fold %d, seed %d", len(part), model, loss, fold, seed)
    places = project(values, n_components=n_components, random_state=random_state)
    result = part[["cell_id", "class", "subset"]].assign(model=model, loss=loss, fold=fold, seed=seed)
    for axis in range(n_components):
        result[f"u{axis}"] = places[:, axis]
    most = {"Interphase": 300} if thin is None else thin
    result["drawn"] = thinned(result["class"], most, random_state=random_state)
    files.write_parquet(out, result)


def embed_chosen(
    embeddings: Sequence[str | os.PathLike[str]],
    chosen_losses: str | os.PathLike[str],
    *,
    pairs: Sequence[Sequence[str]],
    out: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Lay out the test embeddings of one model under its chosen loss, the one best on validation.

    Parameters
    ----------
    embeddings
        Embeddings of the model under each of its losses.
    chosen_losses
        ``tables/chosen_losses.csv``.
    pairs
        (variant, model, loss) of each of `embeddings`.
    out, **options
        As for `embed`.

    Raises
    ------
    DataError
        If none of the pairs is a chosen one; and as `embed`.
    """
    chosen = marked_pairs(chosen_losses, "chosen")
    for path, (variant, model, loss) in zip(embeddings, pairs, strict=True):
        if (variant, model, loss) in chosen:
            embed(path, out=out, model=model, loss=loss, **options)
            return
    asked = "; ".join(", ".join(pair) for pair in pairs)
    raise DataError(f"{chosen_losses}: no loss of the mapped model is chosen ({asked}); run the evaluation again")
