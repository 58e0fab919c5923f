"""Model families: one file each, and the file's name is the family's name.

A family's file holds two things:

``FAMILY``
    A `Family`, written as a literal, so that a plan (a dry run, a check of the config) can read it without
    importing torch.
``Model``
    Of a network, a ``torch.nn.Module`` made as ``Model(channels=..., image_size=..., n_classes=..., **parameters)``,
    whose ``forward(x)`` maps (n, channels, y, x) float32 to (n, n_classes) logits, and whose ``embed(x)``, where
    ``FAMILY.embedding`` is true, gives the (n, d) vectors that the last layer, called ``head``, reads.

    Of an estimator (``FAMILY.kind``), a class made as ``Model(channels=("PI",), n_classes=..., **parameters)`` with
    ``fit(images, target, seed=...)`` on (n, channels, y, x) camera counts and (n,) class numbers, ``predict(images)``
    to (n, n_classes) probabilities, and ``save()`` to and ``load(arrays)`` from a mapping of named arrays.

Adding a family is adding its file; nothing else lists the families.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
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
    """How a network is trained unless the config says otherwise."""

    learning_rate: float
    """Step size of the optimiser; the highest one where `schedule` changes it."""
    optimizer: str = "adam"
    """``adam``, ``adamw`` (weight decay apart from the gradient and not of biases and norms, betas 0.9 and 0.99) or
    ``sgd``."""
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
    schedule: str = "constant"
    """How the learning rate runs: ``constant``, ``step``, ``cosine`` (to 0) or ``one_cycle`` (up, then to 0)."""
    decay_epochs: tuple[int, ...] = ()
    """Epochs of ``step`` that begin with a learning rate of `decay` times the one before."""
    decay: float = 0.1
    """Factor of ``step``."""
    validate: str = "epoch"
    """When validation cells are scored: after every ``step`` (minibatch) or ``epoch``."""
    monitor: str = "balanced_accuracy"
    """What of validation says which weights are best: ``balanced_accuracy`` (highest) or ``loss`` (lowest). With
    ``last`` the last weights are kept, whatever validation says."""
    patience: int | None = None
    """Validations without a better one after which training ends."""
    balance: str = "none"
    """Which cells an epoch holds: ``none``, every training cell once; ``upsample``, each class as often as the largest;
    or as many cells as there are, ``balanced``, the same number of each class, or ``sqrt``, numbers in proportion to
    the square roots of the classes' sizes."""
    flip: bool = False
    """Flip training images horizontally and vertically, each with probability 0.5."""
    rotate: str = "none"
    """Rotate training images: ``none``, by a ``quarter`` turn or several, or by ``any`` angle."""
    blur: float = 0.0
    """Largest standard deviation, in pixels, of a Gaussian that blurs training images."""
    gain: float = 0.0
    """Largest relative change of contrast of training images."""
    offset: float = 0.0
    """Largest shift of brightness of training images, in standard deviations of the channel."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes."""
    average: float = 0.0
    """Share of the running average of the weights that a step keeps; the average is what is scored and kept."""
    views: int = 1
    """Views of a cell whose answers are averaged when it is read: 1, or 8 for all flips and quarter turns."""
    shift: float = 0.0
    """Times that the logarithm of a class's share of the training cells is taken off its score when a cell is read, so
    that rare classes are said more often (Menon et al. 2021, arXiv 2007.07314, equation 9)."""

    def __post_init__(self) -> None:
        if (self.batches_per_epoch is None) == (self.batch_size is None):
            raise ConfigError("recipe: give either `batches_per_epoch` or `batch_size`")
        for name, choices in RECIPE_CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"recipe: {name} `{value}` is not one of {', '.join(map(str, choices))}")
        for name in ("learning_rate", "batches_per_epoch", "batch_size", "epochs", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"recipe: `{name}` must be above 0, not {value}")
        for name in (
            "momentum",
            "weight_decay",
            "decay",
            "blur",
            "gain",
            "offset",
            "label_smoothing",
            "average",
            "shift",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"recipe: `{name}` must not be below 0, and is {getattr(self, name)}")
        for name in ("momentum", "gain", "label_smoothing", "average"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"recipe: `{name}` must be below 1, and is {getattr(self, name)}")
        if (self.schedule == "step") != bool(self.decay_epochs):
            raise ConfigError("recipe: `schedule: step` and `decay_epochs` need each other")


RECIPE_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "optimizer": ("adam", "adamw", "sgd"),
    "schedule": ("constant", "step", "cosine", "one_cycle"),
    "validate": ("step", "epoch"),
    "monitor": ("balanced_accuracy", "loss", "last"),
    "balance": ("none", "upsample", "balanced", "sqrt"),
    "rotate": ("none", "quarter", "any"),
    "views": (1, 8),
}
"""Field of a recipe -> the values to choose from."""

AUGMENTATION: Mapping[str, Any] = {"flip": False, "rotate": "none", "blur": 0.0, "gain": 0.0, "offset": 0.0}
"""Fields of a recipe that augment training images, and their values for none."""


@dataclass(frozen=True)
class Family:
    """What a family takes and what makes sense for it."""

    kind: str = "network"
    """``network``, trained by the one loop, or ``estimator``, which fits itself (see the module's head)."""
    image_size: int | None = None
    """Side in pixels that images are brought to (see `fit` in the config); None: the data set's own size."""
    crop: int | None = None
    """Side of the crop that the network sees, random in training and central in evaluation; None: no crop."""
    smallest_side: int = 1
    """Side in pixels of the smallest image that it can take."""
    needs: tuple[str, ...] = ()
    """Channels that it cannot do without."""
    embedding: bool = False
    """Whether ``embed`` exists: the vectors that the last layer reads."""
    recipe: Recipe | None = None
    """How it is trained; None for an estimator."""
    losses: tuple[str, ...] | None = None
    """Losses that make sense; None: all. `NO_LOSS` alone means that there is none to choose."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Names and default values of what a config entry may set."""
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a parameter that not every value of its type suits: the fields of `Values` that say which do."""

    def __post_init__(self) -> None:
        if self.crop is not None and (self.image_size is None or self.crop > self.image_size):
            raise ConfigError(f"FAMILY: `crop` {self.crop} needs an `image_size` of at least {self.crop}")
        if self.kind not in ("network", "estimator"):
            raise ConfigError(f"FAMILY: kind `{self.kind}` is not one of network, estimator")
        if (self.recipe is None) == (self.kind == "network"):
            raise ConfigError("FAMILY: a network needs a `recipe`, and an estimator has none")


@dataclass(frozen=True)
class ModelEntry:
    """One model of an experiment: a name (the wildcard value), its family, parameters and recipe."""

    name: str
    family: str
    parameters: Mapping[str, Any]
    recipe: Recipe | None
    image_size: int | None = None
    """Side in pixels that images are brought to; None: the data set's own size."""
    crop: int | None = None
    """Side of the crop that the network sees."""


def entry_from(told: Mapping[str, Any]) -> ModelEntry:
    """Build an entry from plain values (as a workflow passes them): the keys are its fields."""
    recipe = told["recipe"]
    return ModelEntry(**{**told, "recipe": None if recipe is None else recipe_from(recipe)})


def recipe_from(told: Mapping[str, Any]) -> Recipe:
    """Build a recipe from plain values, in which a tuple may have become a list."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return Recipe(**values)


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
    return _read_family(path, path.stat().st_mtime_ns)


@cache
def _read_family(path: Path, modified_ns: int) -> Family:
    """Read a family's file; a plan asks for the same ones again and again."""
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
    sizes = {key: options.pop(key, getattr(declared, key)) for key in ("image_size", "crop")}
    recipe_keys = [f.name for f in dataclasses.fields(Recipe)]
    for key, valid in [*((k, recipe_keys) for k in changes), *((k, list(declared.parameters)) for k in options)]:
        if key not in valid:
            known = ", ".join(valid) or "none"
            raise ConfigError(f"model `{name}`: unknown key `{key}`{nearest(key, valid)} (valid: {known})")
    options = {key: _typed(f"model `{name}`", key, value, declared.parameters[key]) for key, value in options.items()}
    parameters = {**declared.parameters, **options}
    for key, allowed in declared.values.items():
        if reason := Values(**allowed).why_not(parameters[key]):
            raise ConfigError(f"model `{name}`: `{key}` is {parameters[key]!r}; {reason}")
    for key, value in sizes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"model `{name}`: `{key}` is {value!r}, and must be a number of pixels above 0")
    if sizes["crop"] is not None and (sizes["image_size"] is None or sizes["crop"] > sizes["image_size"]):
        raise ConfigError(f"model `{name}`: `crop` {sizes['crop']} needs an `image_size` of at least {sizes['crop']}")
    recipe = declared.recipe
    if recipe is not None:
        recipe = changed(recipe, changes, where=f"model `{name}`")
    elif changes:
        raise ConfigError(f"model `{name}`: {family_name} is not trained by steps and has no recipe; remove `recipe`")
    return ModelEntry(name, family_name, parameters, recipe, **sizes)


def with_settings(model: ModelEntry, settings: Mapping[str, Any]) -> ModelEntry:
    """Return a model with other settings: keys of its recipe, or else of its family's parameters.

    Raises
    ------
    ConfigError
        If there is no such key, or it cannot have the value.
    """
    recipe_keys = {f.name for f in dataclasses.fields(Recipe)}
    of_recipe = {key: value for key, value in settings.items() if key in recipe_keys}
    of_family = {key: value for key, value in settings.items() if key not in recipe_keys}
    built = entry({model.name: {"family": model.family, **model.parameters, **of_family}})
    recipe = model.recipe
    if of_recipe and recipe is not None:
        recipe = changed(recipe, of_recipe, where=f"model `{model.name}`")
    return dataclasses.replace(model, parameters=built.parameters, recipe=recipe)


def changed(recipe: Recipe, changes: Mapping[str, Any], *, where: str) -> Recipe:
    """Return a recipe with some of its fields changed to values as a config gives them.

    Raises
    ------
    ConfigError
        If a value is of another type, or none that the field can have; `where` says whose recipe it is.
    """
    like = {f.name: f.default for f in dataclasses.fields(Recipe)} | dict(_RECIPE_LIKE)
    values: dict[str, Any] = {
        key: value if value is None else _typed(f"{where}: recipe", key, value, like[key])
        for key, value in changes.items()
    }
    if "batch_size" in values:  # the two ways to cut an epoch exclude each other
        values.setdefault("batches_per_epoch", None)
    elif "batches_per_epoch" in values:
        values.setdefault("batch_size", None)
    try:
        return dataclasses.replace(recipe, **values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


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
    if isinstance(like, tuple) and isinstance(value, list):
        value = tuple(value)
    if like is not None and type(value) is not type(like):
        raise ConfigError(f"{where}: `{key}` is {value!r}, and must be of type {type(like).__name__} like {like!r}")
    return value


# An example of what each field of a recipe may hold, where its default does not show it.
_RECIPE_LIKE: Mapping[str, object] = {
    "learning_rate": 0.1,
    "batches_per_epoch": 1,
    "batch_size": 1,
    "patience": 1,
}


def module(family_name: str) -> ModuleType:
    """Import a family's file."""
    family_path(family_name)
    return importlib.import_module(f"stainfree.models.{family_name}")
