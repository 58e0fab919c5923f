"""The configuration: read, checked in full before anything runs, and turned into experiments.

Importing this module, and all that a plan needs, costs no heavy import: a dry run must be quick.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stainfree import losses, models, sources
from stainfree.errors import ConfigError
from stainfree.models import ModelEntry
from stainfree.names import nearest
from stainfree.schemes import Scheme, slug

RESERVED_VARIANTS = ("figures", "tables", "saliency", "embedding")
"""Folders that stand beside the variants in the results."""

RESERVED_EXPERIMENTS = {path.stem for path in (Path(__file__).parents[2] / "scripts").glob("*.py")} | {"all", "realism"}
"""Names of the workflow's own rules; all but the last two have a script of that name."""

SPLIT_KEYS = {
    "holdout": ({"validation", "test"}, {"group_by"}),
    "kfold": ({"folds", "validation"}, {"group_by"}),
    "counts": ({"counts"}, set()),
    "file": ({"path"}, set()),
}
"""Kind of split -> (keys it needs, keys it may have)."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raise `ConfigError` in one line where it is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, mappings key by key; neither is modified."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def coerce(value: Any, schema: Mapping[str, Any], *, root: Mapping[str, Any] | None = None) -> Any:
    """Turn texts into the types that a schema asks for: values from a command line arrive as texts.

    What cannot be turned is left as it is, for the validation to refuse.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, Mapping):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        rule = other if isinstance(other, Mapping) else {}
        return {key: coerce(item, known.get(key, rule), root=root) for key, item in value.items()}
    if isinstance(value, list):
        return [coerce(item, schema.get("items", {}), root=root) for item in value]
    kind = schema.get("type")
    if isinstance(value, str) and kind in ("integer", "number", "boolean", "array", "object"):
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        if kind in ("array", "object"):
            return coerce(read, schema, root=root) if isinstance(read, list | dict) else value
        return read
    if kind == "string" and isinstance(value, bool | int | float):
        return str(value)
    if not schema and isinstance(value, str):
        # No type is asked for, as in the options of a data set: a text that reads as a number or as true is one.
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return read if isinstance(read, bool | int | float) else value
    return value


def _line(error: Any, schema: Mapping[str, Any]) -> list[str]:
    """Tell one schema error in lines that name the key and the mend."""
    where = ".".join(str(part) for part in error.absolute_path) or "config"
    if error.validator == "additionalProperties":
        valid = sorted(error.schema.get("properties", {}))
        unknown = [key for key in error.instance if key not in valid]
        prefix = "" if where == "config" else f"{where}."
        return [f"unknown key `{prefix}{key}`{nearest(str(key), valid)} (valid: {', '.join(valid)})" for key in unknown]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"`{where}` lacks the key `{key}`" for key in missing]
    if error.validator == "enum":
        valid = [str(v) for v in error.validator_value]
        return [f"`{where}`: {error.instance!r} is not one of {', '.join(valid)}{nearest(str(error.instance), valid)}"]
    if error.validator == "type":
        return [f"`{where}`: {error.instance!r} is not of type {error.validator_value}"]
    if error.validator == "contains":
        return [f"`{where}`: must name {error.validator_value.get('const')}"]
    if error.validator == "pattern":
        return [f"`{where}`: {error.instance!r} must start with a letter and hold letters, digits and _ only"]
    if error.validator == "oneOf":
        return [f"`{where}`: {error.instance!r} is neither a name nor a name with its settings"]
    return [f"`{where}`: {error.message}"]


def _check_keys(value: Any, where: str = "config") -> None:
    """Refuse keys that are no texts: YAML reads ``on``, ``no`` and ``1`` as something else."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"`{where}`: the key {key!r} is no text; put it in quotes")
            _check_keys(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_keys(item, where)


def check_schema(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Check a config against the schema.

    Raises
    ------
    ConfigError
        With one line per mistake.
    """
    from jsonschema import Draft202012Validator

    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda e: list(map(str, e.absolute_path)))
    lines = [line for error in errors for line in _line(error, schema)]
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))


@dataclass(frozen=True)
class Variant:
    """One way of preparing training and test inside an experiment."""

    name: str
    split: Mapping[str, Any]
    full: bool = False
    protocol: str = "honest"
    balancing: str = "none"

    @property
    def folds(self) -> int:
        """Number of folds of the split: several for ``kfold``, one for every other kind."""
        return self.split.get("folds", 1)


@dataclass(frozen=True)
class Experiment:
    """One study as data: channels, labels, splits, models and losses."""

    name: str
    study: str | None
    task: str
    channels: tuple[str, ...]
    scheme: Scheme
    sources: Mapping[str, tuple[str, ...]]
    fit: str
    variants: tuple[Variant, ...]
    models: tuple[ModelEntry, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]
    subsets: tuple[str, ...]
    explain: Mapping[str, Any] | None

    def losses_of(self, model: str) -> tuple[str, ...]:
        """Return the losses that the model is trained under: the experiment's, as far as they mean something to it."""
        declared = models.family(self.model(model).family).losses
        if declared is None:
            return self.losses
        return tuple(loss for loss in declared if loss in self.losses or loss == models.NO_LOSS)

    def model(self, name: str) -> ModelEntry:
        """Return the entry called `name`."""
        return next(entry for entry in self.models if entry.name == name)

    def variant(self, name: str) -> Variant:
        """Return the variant called `name`."""
        return next(variant for variant in self.variants if variant.name == name)

    def pairs(self) -> list[tuple[str, str, str]]:
        """Return all (variant, model, loss) that are trained, in the order of the config."""
        return list(self._pairs)

    @cached_property
    def _pairs(self) -> tuple[tuple[str, str, str], ...]:
        # Families' files are read for it, and a plan asks for it again and again.
        return tuple(
            (variant.name, entry.name, loss)
            for variant in self.variants
            for entry in self.models
            for loss in self.losses_of(entry.name)
        )


def _check_split(where: str, split: Mapping[str, Any]) -> list[str]:
    needed, optional = SPLIT_KEYS[split["kind"]]
    keys = set(split) - {"kind"}
    problems = [f"`{where}` of kind {split['kind']} lacks the key `{key}`" for key in sorted(needed - keys)]
    problems += [
        f"`{where}.{key}` means nothing for a split of kind {split['kind']}; remove it"
        for key in sorted(keys - needed - optional)
    ]
    if split["kind"] == "holdout" and not problems and split["validation"] + split["test"] >= 1:
        problems.append(f"`{where}`: validation {split['validation']} and test {split['test']} leave nothing to train")
    return problems


def read_experiment(
    name: str, config: Mapping[str, Any], *, studies: Sequence[str], datasets: Sequence[str]
) -> Experiment:
    """Turn one entry of `experiments` into an `Experiment`.

    Raises
    ------
    ConfigError
        With one line per mistake, each naming the key.
    """
    given = config["experiments"][name]
    where = f"experiments.{name}"
    problems: list[str] = []
    if given["scheme"] not in config["schemes"]:
        problems.append(
            f"`{where}.scheme`: unknown scheme `{given['scheme']}`{nearest(given['scheme'], config['schemes'])}"
        )
    if given.get("study") and given["study"] not in studies:
        problems.append(f"`{where}.study`: unknown study `{given['study']}`{nearest(given['study'], studies)}")
    problems += [
        f"`{where}.sources.{dataset}`: unknown data set{nearest(dataset, datasets)}"
        for dataset in given.get("sources", {})
        if dataset not in datasets
    ]
    if name in RESERVED_EXPERIMENTS:
        problems.append(f"`{where}`: a step of the workflow has this name; choose another")
    for variant, settings in given["variants"].items():
        if variant in RESERVED_VARIANTS:
            problems.append(f"`{where}.variants.{variant}`: a folder of the results has this name; choose another")
        problems += _check_split(f"{where}.variants.{variant}.split", settings["split"])
        classes = config["schemes"].get(given["scheme"], {})
        problems += [
            f"`{where}.variants.{variant}.split.counts`: `{c}` is not a class of scheme {given['scheme']}"
            f"{nearest(c, classes)}"
            for c in settings["split"].get("counts", {})
            if classes and c not in classes
        ]
    entries: list[ModelEntry] = []
    for item in given["models"]:
        try:
            entries.append(models.entry(item))
        except ConfigError as error:
            problems.append(f"`{where}.models`: {error}")
    names = [entry.name for entry in entries]
    problems += [f"`{where}.models`: `{n}` stands twice" for n in sorted({n for n in names if names.count(n) > 1})]
    for loss in given["losses"]:
        try:
            losses.loss_path(loss)
        except ConfigError as error:
            problems.append(f"`{where}.losses`: {error}")
    for entry in entries:
        declared = models.family(entry.family).losses
        if declared is not None and models.NO_LOSS not in declared and not set(declared) & set(given["losses"]):
            problems.append(
                f"`{where}.losses`: model {entry.name} is trained under {', '.join(declared)} only; add one of them"
            )
    explain = given.get("explain")
    scheme_classes = list(config["schemes"].get(given["scheme"], {}))
    if explain and len(entries) == len(given["models"]):
        for key in ("judge", "embedding"):
            if explain[key] not in names:
                problems.append(
                    f"`{where}.explain.{key}`: `{explain[key]}` is not one of the experiment's models"
                    f"{nearest(explain[key], names)}"
                )
            elif key == "embedding" and not models.family(entries[names.index(explain[key])].family).embedding:
                problems.append(f"`{where}.explain.embedding`: `{explain[key]}` has no embedding")
        slugs = [slug(name) for name in explain["classes"]]
        if len(set(slugs)) < len(slugs):
            problems.append(f"`{where}.explain.classes`: two of them would give figures of one name; leave one out")
        if scheme_classes:
            problems += [
                f"`{where}.explain`: `{c}` is not a class of scheme {given['scheme']}{nearest(c, scheme_classes)}"
                for c in [*explain["classes"], *explain.get("thin", {})]
                if c not in scheme_classes
            ]
    if problems:
        raise ConfigError("\n".join(problems))
    return Experiment(
        name=name,
        study=given.get("study"),
        task=given["task"],
        channels=tuple(given["channels"]),
        scheme=Scheme(given["scheme"], config["schemes"][given["scheme"]]),
        sources={dataset: tuple(sources) for dataset, sources in given.get("sources", {}).items()},
        fit=given["fit"],
        variants=tuple(
            Variant(variant, settings["split"], settings.get("full", False))
            for variant, settings in given["variants"].items()
            if config["full"] or not settings.get("full", False)
        ),
        models=tuple(entries),
        losses=tuple(given["losses"]),
        seeds=tuple(given["seeds"]),
        subsets=tuple(given["subsets"]),
        explain=explain,
    )


def requirements_of(experiment: Experiment) -> dict[str, Any]:
    """Return what an experiment's models ask of a data set, as `stainfree.requirements.check` takes it."""
    return {
        "channels": list(experiment.channels),
        "sizes": {entry.name: models.family(entry.family).image_size for entry in experiment.models},
        "fit": experiment.fit,
    }


@dataclass(frozen=True)
class Settings:
    """A checked configuration."""

    dataset: str
    datasets: Mapping[str, Mapping[str, Any]]
    """Every data set's mapping: the public ones with the config's changes, and the user's own."""
    experiments: Mapping[str, Experiment]
    build: tuple[str, ...]
    seed: int
    mirror: str
    threads: int
    device: str
    fan_out: bool
    """Whether each part of a training is a job of its own."""
    bootstrap: int


def check(config: Mapping[str, Any], *, workflow: Path) -> Settings:
    """Check a configuration in full.

    Parameters
    ----------
    config
        What config.yaml and the command line say together.
    workflow
        The folder that holds ``schemas/config.schema.yaml``, ``datasets.yaml`` and ``studies/``.

    Raises
    ------
    ConfigError
        With one line per mistake: the key, and the nearest valid name where there is one.
    """
    schema = read_yaml(workflow / "schemas" / "config.schema.yaml")
    _check_keys(config)
    config = coerce(config, schema)
    check_schema(config, schema)
    problems: list[str] = []
    public = read_yaml(workflow / "datasets.yaml")
    datasets = merge(public, config["datasets"])
    shared = {"kind", "channels", "bit_depth", "pixel_size_um", "licence", "citation", "path", "keep_duplicates"}
    problems += [
        f"unknown key `datasets.{name}.{key}`{nearest(key, {*public[name], *shared})}"
        for name, changes in config["datasets"].items()
        if name in public
        for key in changes
        if key not in public[name] and key not in shared
    ]
    problems += [
        f"`datasets.{name}` lacks the key `{key}`"
        for name, told in datasets.items()
        if "kind" in told
        for key in ("channels", "bit_depth")
        if key not in told
    ]
    problems += [
        f"`datasets.{name}`: no public data set has this name{nearest(name, public)}; one of your own needs `kind`"
        for name, changes in config["datasets"].items()
        if name not in public and "kind" not in changes
    ]
    problems += [
        f"`datasets.{name}.kind`: unknown kind `{told['kind']}`{nearest(str(told['kind']), sources.kinds())}"
        for name, told in datasets.items()
        if "kind" in told and told["kind"] not in sources.kinds()
    ]
    if config["dataset"] not in datasets:
        problems.append(
            f"`dataset`: unknown data set `{config['dataset']}`{nearest(config['dataset'], datasets)} "
            f"(there are: {', '.join(datasets)})"
        )
    for scheme, classes in config["schemes"].items():
        stages = [stage for members in classes.values() for stage in members]
        problems += [
            f"`schemes.{scheme}`: stage {stage} stands in two classes"
            for stage in sorted({stage for stage in stages if stages.count(stage) > 1})
        ]
    problems += [
        f"`build`: unknown experiment `{name}`{nearest(name, config['experiments'])}"
        for name in config["build"]
        if name not in config["experiments"]
    ]
    studies = sorted(path.stem for path in (workflow / "studies").glob("*.yaml"))
    experiments: dict[str, Experiment] = {}
    for name in config["experiments"]:
        try:
            experiments[name] = read_experiment(name, config, studies=studies, datasets=list(datasets))
        except ConfigError as error:
            problems += str(error).split("\n")
    if not problems:
        channels = datasets[config["dataset"]].get("channels", {})
        for name in config["build"]:
            experiment = experiments[name]
            missing = [channel for channel in experiment.channels if channels and channel not in channels]
            if missing:
                problems.append(
                    f"`experiments.{name}.channels`: data set {config['dataset']} has no channel {', '.join(missing)}"
                    f"{nearest(missing[0], channels)} (it has: {', '.join(channels)})"
                )
            if not experiment.variants:
                problems.append(f"`experiments.{name}.variants`: every variant is marked full; set `full: true`")
    if problems:
        raise ConfigError("\n".join(problems))
    return Settings(
        dataset=config["dataset"],
        datasets=datasets,
        experiments=experiments,
        build=tuple(config["build"]),
        seed=config["seed"],
        mirror=config["mirror"],
        threads=config["training"]["threads"],
        device=config["training"]["device"],
        fan_out=config["fan_out"],
        bootstrap=config["evaluation"]["bootstrap"],
    )
