"""Transfer learning: a part starts from the weights of the same part of another training.

What a network learnt from a cell is not unseen when that cell tests it later. So the weights are refused where any cell
that they learnt from, or were chosen by, is a test cell of the part that starts from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from stainfree import files, models, splits
from stainfree.errors import DataError
from stainfree.plans import Data, Plan

logger = logging.getLogger(__name__)


def start(module: nn.Module, plan: Plan, data: Data, *, fold: int, seed: int) -> None:
    """Lay the weights that a plan starts from into a module that was built for one of its parts.

    Raises
    ------
    DataError
        As `find_weights` does, and if the network took images of another size.
    """
    assert plan.init_from is not None
    path = find_weights(plan, data, fold=fold, seed=seed)
    weights = load_file(path)
    if plan.init_from["head"] == "new":
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    own = module.state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise DataError(f"{path}: its {name} does not fit; start from a network of the same images")
    module.load_state_dict({**own, **weights})
    logger.info("fold %s seed %s: starting from %s", fold, seed, path)


def find_weights(plan: Plan, data: Data, *, fold: int, seed: int) -> Path:
    """Return the file of the weights that a part starts from.

    ``plan.init_from`` gives ``folder``, that of a finished training, ``split``, the split that it rests on, and
    ``head``: ``keep`` takes all weights, ``new`` leaves the last layer, called ``head``, as it was drawn.

    Raises
    ------
    DataError
        If there is no such part, its network, channels or classes are others, or a test cell was among its cells.
    """
    said = plan.init_from
    assert said is not None
    folder, about = Path(said["folder"]), files.read_json(Path(said["folder"]) / "model.json")
    _check_fit(about, plan, folder=folder, fold=fold, keeps_head=said["head"] == "keep")
    part = next((one for one in about["parts"] if (one["fold"], one["seed"]) == (fold, seed)), None)
    if part is None:
        raise DataError(
            f"{folder}/model.json: has no part of fold {fold} and seed {seed} to start from; train it there"
        )
    _check_unseen_by_all(data, said, fold=fold)
    path = folder / part["weights"]
    if files.sha256(path) != part["sha256"]:
        raise DataError(f"{path}: is not what model.json describes; train {about['model']} again")
    return path


def _check_unseen_by_all(data: Data, said: Mapping[str, str], *, fold: int) -> None:
    """Check the cells that weights learnt from, and those of the weights that they started from, and so on."""
    start: Mapping[str, str] | None = said
    while start is not None:
        path = Path(start["folder"]) / "model.json"
        if not path.is_file():
            raise DataError(f"{path}: is missing, so that nobody can tell which cells it learnt from; train it again")
        about = files.read_json(path)
        if files.sha256(start["split"]) != about["split"]["sha256"]:
            raise DataError(
                f"{start['split']}: is not the split that {path.parent} was trained on; train {about['model']} again"
            )
        check_unseen(data, folder=path.parent, split=start["split"], fold=fold)
        start = about["init_from"]


def check_unseen(data: Data, *, folder: Path, split: str, fold: int) -> None:
    """Refuse weights of a fold whose training or validation cells, or copies of them, are test cells here.

    Raises
    ------
    DataError
        Naming one such cell.
    """
    theirs = splits.read(split)
    seen = theirs[(theirs["fold"] == fold) & (theirs["subset"] != "test")]
    tested, _ = data.select(fold, "test")
    leaked = tested[tested["cell_id"].isin(seen["cell_id"]) | tested["group"].isin(seen["group"])]
    if len(leaked):
        raise DataError(
            f"{folder}: learnt from {len(leaked)} cells that test fold {fold} here, such as "
            f"{leaked['cell_id'].iloc[0]}; start from an experiment with the same split (kind, folds, seed, sources)"
        )


def _check_fit(about: dict[str, Any], plan: Plan, *, folder: Path, fold: int, keeps_head: bool) -> None:
    """Refuse weights of another network, of other channels, or, where the head is kept, of other classes."""
    entry = plan.model_of(fold)
    # What a search changed of the parameters stands with the part.
    tuned: dict[str, Any] = next((one.get("tuned", {}) for one in about["parts"] if one["fold"] == fold), {})
    params = {key: tuned.get(key, value) for key, value in about["params"].items()}
    theirs = (about["family"], params, about["crop"])
    if theirs != (entry.family, _plain(entry), entry.crop):
        raise DataError(
            f"{folder}: is a {about['family']} of other parameters or another size than {entry.name}; start from the "
            "same family with the same parameters"
        )
    if tuple(about["channels"]) != plan.channels:
        raise DataError(
            f"{folder}: sees {', '.join(about['channels'])}, and {entry.name} here {', '.join(plan.channels)}; "
            "start from an experiment with the same channels"
        )
    if keeps_head and tuple(about["scheme"]["classes"]) != plan.scheme.classes:
        raise DataError(
            f"{folder}: tells {', '.join(about['scheme']['classes'])} apart, and this experiment "
            f"{', '.join(plan.scheme.classes)}; set `head: new` in `init_from`"
        )


def _plain(entry: models.ModelEntry) -> dict[str, Any]:
    """Return a model's parameters as a JSON file gives them back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.parameters.items()}
