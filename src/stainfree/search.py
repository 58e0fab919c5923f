"""A search of hyper-parameters as the config says it: which settings, how many trials, and what is refused.

Light to import, since a plan checks it; the search itself stands in `stainfree.tuning`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stainfree import models
from stainfree.errors import ConfigError
from stainfree.models import ModelEntry, Recipe
from stainfree.names import nearest

Values = list[Any] | dict[str, Any]
"""Of one key: a list to choose from, or ``low``, ``high`` (both included) and ``log`` of a number."""


@dataclass(frozen=True)
class Search:
    """What is tried, and how it is compared."""

    trials: int
    """Settings that are tried for each fold."""
    folds: int
    """Inner folds, into which a fold's training and validation cells are dealt anew."""
    space: Mapping[str, Values]
    """Key of the recipe or of the family's parameters -> its values."""
    metric: str = "macro_f1"
    """What is compared: its mean over the inner folds."""
    epochs: int | None = None
    """Epochs of a trial; None: as many as the recipe says."""


def read(config: Mapping[str, Any], model: ModelEntry) -> Search:
    """Read a model's `tune`.

    Raises
    ------
    ConfigError
        With one line per mistake: a key that the model does not have, a value that it refuses, nothing to choose from.
    """
    problems: list[str] = []
    if model.recipe is None and "epochs" in config:
        problems.append("tune: `epochs` means nothing for a model that is not trained by steps; remove it")
    if "epochs" in config and "epochs" in config["space"]:
        problems.append("tune: `epochs` and `space.epochs` are both given; remove one")
    if {"batch_size", "batches_per_epoch"} <= set(config["space"]):
        problems.append("tune.space: `batch_size` and `batches_per_epoch` exclude each other; remove one")
    space: dict[str, Values] = {}
    for key, values in config["space"].items():
        try:
            space[key] = _values(model, key, values)
        except ConfigError as error:
            problems.append(f"tune.space: {str(error).removeprefix(f'model `{model.name}`: ')}")
    if problems:
        raise ConfigError("\n".join(f"model `{model.name}`: {problem}" for problem in problems))
    return Search(**{**config, "space": space})


def _values(model: ModelEntry, key: str, given: Any) -> Values:
    """Return the values of one key in the types that the model takes."""
    valid = [*_recipe_keys(model), *model.parameters]
    if key not in valid:
        raise ConfigError(f"unknown key `{key}`{nearest(key, valid)} (valid: {', '.join(valid)})")
    if isinstance(given, list):
        if not given:
            raise ConfigError(f"`{key}` has no value to choose from; list some, or give `low` and `high`")
        return [_typed(model, key, value) for value in given]
    for name in given:
        if name not in ("low", "high", "log"):
            raise ConfigError(f"unknown key `{key}.{name}`{nearest(name, ('low', 'high', 'log'))} (low, high, log)")
    for name in ("low", "high"):
        if name not in given:
            raise ConfigError(f"`{key}` lacks `{name}`; give `low` and `high`, or a list of values")
    low, high = (_typed(model, key, _number(key, name, given[name])) for name in ("low", "high"))
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"`{key}.log` is {log!r}, and must be true or false")
    if low >= high:
        raise ConfigError(f"`{key}`: `low` {low} is not below `high` {high}")
    if log and low <= 0:
        raise ConfigError(f"`{key}`: `low` is {low}, and must be above 0 where `log` is true")
    if isinstance(low, int):
        _typed(model, key, low + 1)  # a parameter may go in larger steps: its values are to be listed
    return {"low": low, "high": high, "log": log}


def _number(key: str, name: str, value: Any) -> float:
    """Return a number; YAML takes ``1e-2`` for a text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"`{key}.{name}` is {value!r}, and must be a number; or list the values of `{key}`")
    return value


def _typed(model: ModelEntry, key: str, value: Any) -> Any:
    """Return a value as the model holds it, a tuple as a list; raise `ConfigError` where it refuses it."""
    changed = models.with_settings(model, {key: value})
    holder = dataclasses.asdict(changed.recipe) if changed.recipe and key in _recipe_keys(model) else changed.parameters
    held = holder[key]
    return list(held) if isinstance(held, tuple) else held


def _recipe_keys(model: ModelEntry) -> list[str]:
    return [] if model.recipe is None else [field.name for field in dataclasses.fields(Recipe)]
