"""Model families: one file each, and the file's name is the family's name.

A family's file holds two things:

``FAMILY``
    A `Family`, written as a literal, so that a plan (a dry run, a check of the config) can read it without
    importing torch.
``Model``
    A ``torch.nn.Module`` made as ``Model(channels=..., image_size=..., n_classes=..., **parameters)``, whose
    ``forward(x)`` maps (n, channels, y, x) float32 to (n, n_classes) logits, and whose ``embed(x)``, where
    ``FAMILY.embedding`` is true, gives the (n, d) vectors that the last layer reads.

Adding a family is adding its file; nothing else lists the families.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from stainfree.errors import ConfigError
from stainfree.models._values import Values
from stainfree.names import files_by_name, find_file, nearest

FOLDER = Path(__file__).parent

NO_LOSS = "none"
"""Name that stands for the loss of families that are not trained by one."""


@dataclass(frozen=True)
class Recipe:
    """How a family is trained unless the config says otherwise."""

    learning_rate: float
    """Step size of the optimiser."""
    optimizer: str = "adam"
    """``adam`` or ``sgd``."""
    momentum: float = 0.0
    """Momentum of ``sgd``; ``adam`` has its own betas."""
    weight_decay: float = 0.0
    """L2 penalty."""
    batches_per_epoch: int | None = None
    """Minibatches that an epoch is cut into; excludes `batch_size`."""
    batch_size: int | None = None
    """Cells per minibatch; excludes `batches_per_epoch`."""
    epochs: int = 10
    """Most epochs."""
    patience: int | None = None
    """Steps (minibatches) without a better balanced accuracy on validation after which training ends."""
    flip: bool = False
    """Flip training images horizontally and vertically, each with probability 0.5."""

    def __post_init__(self) -> None:
        if (self.batches_per_epoch is None) == (self.batch_size is None):
            raise ConfigError("recipe: give either `batches_per_epoch` or `batch_size`")
        if self.optimizer not in ("adam", "sgd"):
            raise ConfigError(f"recipe: optimizer `{self.optimizer}` is not one of adam, sgd")
        for name in ("learning_rate", "batches_per_epoch", "batch_size", "epochs", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"recipe: `{name}` must be above 0, not {value}")


@dataclass(frozen=True)
class Family:
    """What a family takes and what makes sense for it."""

    recipe: Recipe
    """Its default recipe."""
    image_size: int | None = None
    """Side in pixels that images are brought to (`fit`); None: any size, as the data set has it."""
    crop: int | None = None
    """Side of the square cut from the image: at random in training, the centre at evaluation; None: no crop."""
    embedding: bool = False
    """Whether ``Model.embed`` exists."""
    losses: tuple[str, ...] | None = None
    """Losses that mean something for it; None: all."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Names and default values of what a config entry may set."""
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a parameter that not every value of its type suits: the fields of `Values` that say which do."""

    def __post_init__(self) -> None:
        if self.crop is not None and (self.image_size is None or self.crop > self.image_size):
            raise ConfigError(f"FAMILY: `crop` {self.crop} needs an `image_size` of at least {self.crop}")

    @property
    def input_size(self) -> int | None:
        """Side of the image that the network sees."""
        return self.crop if self.crop is not None else self.image_size


@dataclass(frozen=True)
class ModelEntry:
    """One model of an experiment: a name (the wildcard value), its family, parameters and recipe."""

    name: str
    family: str
    parameters: Mapping[str, Any]
    recipe: Recipe


def family_names() -> list[str]:
    """Return the names of all families, sorted: the files of this folder."""
    return list(files_by_name(FOLDER))


def family_path(family: str) -> Path:
    """Return the file that defines a family; raise `ConfigError` naming the nearest one that exists."""
    return find_file(FOLDER, family, what="model family")


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal in which `Family` and `Recipe` may be called with keywords."""
    constructors = {"Family": Family, "Recipe": Recipe}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in constructors:
        return constructors[node.func.id](**{str(k.arg): _literal(k.value) for k in node.keywords})
    return ast.literal_eval(node)


def family(name: str) -> Family:
    """Return what a family declares, read from its source without importing it.

    Raises
    ------
    ConfigError
        If there is no such family, or its ``FAMILY`` is not a literal.
    """
    path = family_path(name)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "FAMILY" for t in node.targets):
            try:
                declared = _literal(node.value)
            except ValueError as error:
                raise ConfigError(f"{path}: FAMILY must be written with plain values ({error})") from error
            if isinstance(declared, Family):
                return declared
    raise ConfigError(f"{path}: declares no FAMILY = Family(...); see src/stainfree/models/__init__.py")


def entry(config: str | Mapping[str, Any]) -> ModelEntry:
    """Read one entry of an experiment's `models`.

    Parameters
    ----------
    config
        A family's name, or ``{name: {family: ..., recipe: {...}, parameter: value, ...}}``.

    Raises
    ------
    ConfigError
        If the family, a parameter or a key of the recipe is unknown, or a value is none it can have; the nearest
        valid ones are given.
    """
    if isinstance(config, str):
        config = {config: {}}
    ((name, options),) = config.items()
    options = dict(options or {})
    family_name = _typed(f"model `{name}`", "family", options.pop("family", name), name)
    declared = family(family_name)
    changes = dict(_typed(f"model `{name}`", "recipe", options.pop("recipe", {}), {}))
    recipe_keys = [f.name for f in dataclasses.fields(Recipe)]
    for key, valid in [*((k, recipe_keys) for k in changes), *((k, list(declared.parameters)) for k in options)]:
        if key not in valid:
            known = ", ".join(valid) or "none"
            raise ConfigError(f"model `{name}`: unknown key `{key}`{nearest(key, valid)} (valid: {known})")
    like = {f.name: f.default for f in dataclasses.fields(Recipe)} | dict(_RECIPE_LIKE)
    changes = {
        key: value if value is None else _typed(f"model `{name}`: recipe", key, value, like[key])
        for key, value in changes.items()
    }
    options = {key: _typed(f"model `{name}`", key, value, declared.parameters[key]) for key, value in options.items()}
    parameters = {**declared.parameters, **options}
    for key, allowed in declared.values.items():
        if reason := Values(**allowed).why_not(parameters[key]):
            raise ConfigError(f"model `{name}`: `{key}` is {parameters[key]!r}; {reason}")
    if "batch_size" in changes:  # the two ways to cut an epoch exclude each other
        changes.setdefault("batches_per_epoch", None)
    elif "batches_per_epoch" in changes:
        changes.setdefault("batch_size", None)
    try:
        recipe = dataclasses.replace(declared.recipe, **changes)
    except ConfigError as error:
        raise ConfigError(f"model `{name}`: {error}") from error
    return ModelEntry(name, family_name, parameters, recipe)


def _typed(where: str, key: str, value: Any, like: object) -> Any:
    """Return a setting in the type of its default; raise `ConfigError` where it is of another.

    A text that reads as a number is one: YAML takes ``1e-2`` for a text.
    """
    if isinstance(value, str) and isinstance(like, int | float) and not isinstance(like, bool):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(like, int) and isinstance(value, float) and value.is_integer():
        value = int(value)
    if like is not None and type(value) is not type(like):
        raise ConfigError(f"{where}: `{key}` is {value!r}, and must be of type {type(like).__name__} like {like!r}")
    return value


# An example of what each field of a recipe may hold, where its default does not show it.
_RECIPE_LIKE: Mapping[str, object] = {"learning_rate": 0.1, "batches_per_epoch": 1, "batch_size": 1, "patience": 1}


def module(family_name: str) -> ModuleType:
    """Import a family's file."""
    family_path(family_name)
    return importlib.import_module(f"stainfree.models.{family_name}")
