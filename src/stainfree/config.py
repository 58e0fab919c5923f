"""The configuration: read, checked in full before anything runs, and turned into experiments.

Importing this module, and all that a plan needs, costs no heavy import: a dry run must be quick.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stainfree import losses, models, search, sources
from stainfree.errors import ConfigError
from stainfree.models import ModelEntry
from stainfree.names import nearest
from stainfree.schemes import Scheme, slug

RESERVED_VARIANTS = ("figures", "tables", "saliency", "embedding")
"""Folders that stand beside the variants in the results."""

_SCRIPTS = Path(__file__).parents[2] / "scripts"
RESERVED_EXPERIMENTS = {path.stem for path in _SCRIPTS.glob("*.py")} | {"all", "realism", "measures"}
"""Names of the workflow's own rules; all but the last three have a script of that name."""

SPLIT_KEYS = {
    "holdout": ({"validation", "test"}, {"group_by", "seed"}),
    "kfold": ({"folds", "validation"}, {"group_by", "seed"}),
    "counts": ({"counts"}, {"seed"}),
    "file": ({"path"}, set()),
}
"""Kind of split -> (keys it needs, keys it may have)."""

TABLE_OPTIONS = {
    "accuracy_by_variant": ("variants", "models", "f1_variant"),
    "by_parameter": ("models", "parameters", "variant"),
    "class_scores": ("variants", "models"),
    "over_seeds": ("variants", "models", "metrics"),
    "transfer": ("models", "variant"),
}
"""Tables that an experiment may have beside the common ones (see `stainfree.study_tables`), and their options."""

TABLE_NEEDS = {
    "accuracy_by_variant": ("variants",),
    "by_parameter": ("models", "parameters"),
    "class_scores": ("variants",),
    "over_seeds": ("variants",),
    "transfer": ("models",),
}
"""The options without which a table cannot be made."""

FIGURE_OPTIONS = {
    "augmentations": ("variants", "variant"),
    "bars": ("variants", "variant", "models", "model", "metrics", "by"),
    "class_counts": ("variant",),
    "confusion": ("variants", "variant", "models", "model", "subset"),
    "parameters": ("variant", "models", "metrics"),
}
"""Figures that an experiment may have beside the common ones, modules of `stainfree.figures`, and their options."""


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
        kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        return [f"`{where}`: {error.instance!r} is not of type {' or '.join(kinds)}"]
    if error.validator == "contains":
        return [f"`{where}`: must name {error.validator_value.get('const')}"]
    if error.validator == "pattern":
        return [f"`{where}`: {error.instance!r} must start with a letter and hold letters, digits and _ only"]
    if error.validator == "oneOf":
        # A name with its settings: what is wrong with them.
        inside = [
            line
            for other in error.context
            for line in _line(other, schema)
            if len(other.absolute_path) > len(error.absolute_path)
        ]
        return inside or [f"`{where}`: {error.instance!r} is neither a name nor a name with its settings"]
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
    balance: str | None = None
    """Which cells an epoch holds, for all models of the variant; None: each model's own recipe."""
    augment: Mapping[str, Any] | None = None
    """Augmentation of all models of the variant; None: each model's own recipe."""
    models: tuple[str, ...] | None = None
    """The models that are trained in it; None: all."""

    @property
    def balancing(self) -> str:
        """What tables call the balancing of the variant."""
        return self.balance or "none"

    @property
    def folds(self) -> int:
        """Number of folds of the split: several for ``kfold``, one for every other kind."""
        return self.split.get("folds", 1)


@dataclass(frozen=True)
class Start:
    """The weights that a training starts from: those of the same part (fold, seed) of another training."""

    experiment: str
    variant: str
    model: str
    loss: str
    head: str = "keep"
    """``keep``: classes are the same; ``new``: the last layer begins afresh, for other classes."""


@dataclass(frozen=True)
class ModelOptions:
    """What a model's entry says beside what is built and how it is trained."""

    folds: int | None = None
    """The first folds of a split, the only ones that are trained; None: all."""
    full: bool = False
    """Whether the model belongs to ``full: true`` alone."""
    losses: tuple[str, ...] | None = None
    """The losses that it is trained under; None: the experiment's."""
    init_from: Start | None = None
    tune: search.Search | None = None
    """What is searched for each fold before the training, and how long."""


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
    main: str = ""
    """The variant that figures show."""
    options: Mapping[str, ModelOptions] = field(default_factory=dict)
    """Model -> what its entry says beside what is built."""
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Kind of a study's table -> its options."""
    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a study's figure, which starts with its kind -> its options."""
    assumptions: tuple[str, ...] = ()
    """What was taken where nothing is published, for the report."""

    @property
    def explained(self) -> str:
        """The variant whose models are explained."""
        return (self.explain or {}).get("variant", self.main)

    def losses_of(self, model: str) -> tuple[str, ...]:
        """Return the losses of the model: its entry's, or the experiment's as far as they mean something to it."""
        if (own := self.options[model].losses) is not None:
            return own
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

    def trained_model(self, variant: str, model: str) -> ModelEntry:
        """Return a model as it is trained in a variant, which may say how images are augmented and classes balanced."""
        entry, prepared = self.model(model), self.variant(variant)
        if entry.recipe is None:
            return entry
        changes: dict[str, Any] = {}
        if prepared.augment is not None:
            changes |= {**models.AUGMENTATION, **prepared.augment}
        if prepared.balance is not None:
            changes["balance"] = prepared.balance
        return dataclasses.replace(entry, recipe=models.changed(entry.recipe, changes, where=f"model `{model}`"))

    def folds_of(self, variant: str, model: str) -> int:
        """Return how many folds of a variant's split a model is trained on: the first ones."""
        folds = self.variant(variant).folds
        return min(folds, self.options[model].folds or folds)

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
            if variant.models is None or entry.name in variant.models
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
    options: dict[str, ModelOptions] = {}
    for item in given["models"]:
        try:
            entry, said = _read_model(item)
        except ConfigError as error:
            problems += [f"`{where}.models`: {line}" for line in str(error).split("\n")]
            continue
        entries.append(entry)
        options[entry.name] = said
    names = [entry.name for entry in entries]
    problems += [f"`{where}.models`: `{n}` stands twice" for n in sorted({n for n in names if names.count(n) > 1})]
    for loss in given["losses"]:
        try:
            losses.loss_path(loss)
        except ConfigError as error:
            problems.append(f"`{where}.losses`: {error}")
    for entry in entries:
        declared = models.family(entry.family)
        own = options[entry.name].losses
        of_model = given["losses"] if own is None else own
        suited = None if declared.losses is None else {models.NO_LOSS, *of_model} & set(declared.losses)
        if suited == set() or (own is not None and suited is not None and suited != set(own)):
            problems.append(
                f"`{where}.losses`: model {entry.name} is trained under {', '.join(declared.losses or ())} only; "
                "set `losses` of the model to one of them"
            )
        lacking = [channel for channel in declared.needs if channel not in given["channels"]]
        if lacking:
            problems.append(
                f"`{where}.models`: model {entry.name} reads the channel {', '.join(lacking)}, which `channels` of the "
                "experiment does not name; add it, or leave the model out"
            )
    if len(entries) == len(given["models"]):
        problems += _check_names(where, given, names)
        transferred = (given.get("tables", {}).get("transfer") or {}).get("models", [])
        if transferred and all(model in names and options[model].init_from is None for model in transferred):
            problems.append(f"`{where}.tables.transfer.models`: none of them has `init_from`; name one that has")
        for variant, settings in given["variants"].items():
            for entry in entries:
                if entry.recipe is not None:
                    try:
                        models.changed(entry.recipe, settings.get("augment", {}), where=f"model `{entry.name}`")
                    except ConfigError as error:
                        problems.append(f"`{where}.variants.{variant}.augment`: {error}")
                        break
    built = [name for name, settings in given["variants"].items() if config["full"] or not settings.get("full", False)]
    main = given.get("main") or next(iter(built), "")
    if main in given["variants"] and main not in built:
        problems.append(f"`{where}.main`: {main} is built with `full: true` alone; choose another variant")
    explain = given.get("explain")
    scheme_classes = list(config["schemes"].get(given["scheme"], {}))
    if explain and len(entries) == len(given["models"]):
        mapped = explain["embedding"] if isinstance(explain["embedding"], list) else [explain["embedding"]]
        explained = explain.get("variant", main)
        shown = given["variants"].get(explained, {}).get("models", names)
        if explained not in given["variants"]:
            problems.append(
                f"`{where}.explain.variant`: unknown variant `{explained}`{nearest(explained, given['variants'])}"
            )
        elif given["variants"][explained].get("full", False) and not config["full"] and "variant" in explain:
            problems.append(f"`{where}.explain.variant`: {explained} is built with `full: true` alone; choose another")
        for key, model in [("judge", explain["judge"]), *(("embedding", model) for model in mapped)]:
            if model not in names:
                problems.append(
                    f"`{where}.explain.{key}`: `{model}` is not one of the experiment's models{nearest(model, names)}"
                )
                continue
            declared = models.family(entries[names.index(model)].family)
            if key == "embedding" and not declared.embedding:
                problems.append(f"`{where}.explain.embedding`: `{model}` has no embedding")
            if key == "judge" and declared.kind != "network":
                problems.append(f"`{where}.explain.judge`: `{model}` is no network, and has no saliency to show")
            if options[model].full and not config["full"]:
                problems.append(
                    f"`{where}.explain.{key}`: `{model}` is built with `full: true` alone; choose another model"
                )
            elif model not in shown:
                problems.append(
                    f"`{where}.explain.{key}`: `{model}` is not trained in {explained}, the variant that is explained; "
                    "add it to the variant's `models`"
                )
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
    variants = tuple(
        Variant(
            variant,
            settings["split"],
            settings.get("full", False),
            balance=settings.get("balance"),
            augment=settings.get("augment"),
            models=tuple(settings["models"]) if "models" in settings else None,
        )
        for variant, settings in given["variants"].items()
        if config["full"] or not settings.get("full", False)
    )
    if config["full"]:
        options = {model: dataclasses.replace(said, folds=None) for model, said in options.items()}
    return Experiment(
        name=name,
        study=given.get("study"),
        task=given["task"],
        channels=tuple(given["channels"]),
        scheme=Scheme(given["scheme"], config["schemes"][given["scheme"]]),
        sources={dataset: tuple(sources) for dataset, sources in given.get("sources", {}).items()},
        fit=given["fit"],
        variants=variants,
        models=tuple(entry for entry in entries if config["full"] or not options[entry.name].full),
        losses=tuple(given["losses"]),
        seeds=tuple(given["seeds"]),
        subsets=tuple(given["subsets"]),
        explain=explain,
        main=main,
        options=options,
        tables={kind: said or {} for kind, said in given.get("tables", {}).items()},
        figures={figure: said or {} for figure, said in given.get("figures", {}).items()},
        assumptions=tuple(given.get("assumptions", ())),
    )


def _read_model(item: str | Mapping[str, Any]) -> tuple[ModelEntry, ModelOptions]:
    """Read one entry of `models`: what is built, and what else the entry says."""
    if isinstance(item, str):
        return models.entry(item), ModelOptions()
    ((name, settings),) = item.items()
    settings = dict(settings)
    said = {key: settings.pop(key) for key in ("folds", "full", "losses", "init_from", "tune") if key in settings}
    if "losses" in said:
        for loss in said["losses"]:
            losses.loss_path(loss)
        said["losses"] = tuple(said["losses"])
    entry = models.entry({name: settings})
    if "init_from" in said:
        said["init_from"] = Start(**said["init_from"])
    if "tune" in said:
        if "init_from" in said:
            raise ConfigError(
                f"model `{name}`: `init_from` and `tune` exclude each other, since the weights have seen the cells on "
                "which settings would be compared; remove one"
            )
        said["tune"] = search.read(said["tune"], entry)
    return entry, ModelOptions(**said)


def _check_names(where: str, given: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Check what variants, tables and figures say of models and variants by name."""
    problems = []
    places = [(f"variants.{variant}", settings) for variant, settings in given["variants"].items()]
    places += [(f"tables.{kind}", said or {}) for kind, said in given.get("tables", {}).items()]
    places += [(f"figures.{figure}", said or {}) for figure, said in given.get("figures", {}).items()]
    known = {"model": names, "variant": list(given["variants"])}
    for place, said in places:
        for what, valid in known.items():
            named = [*said.get(f"{what}s", []), *([said[what]] if what in said else [])]
            problems += [
                f"`{where}.{place}`: `{name}` is not one of the experiment's {what}s{nearest(name, valid)}"
                for name in named
                if name not in valid
            ]
    problems += [
        f"`{where}.figures`: `{figure}` does not start with a kind of figure: {', '.join(FIGURE_OPTIONS)}"
        for figure in given.get("figures", {})
        if figure_kind(figure) is None
    ]
    problems += [
        f"`{where}.figures`: every experiment has a figure `{figure}`; choose another name"
        for figure in given.get("figures", {})
        if figure in ("confusion_train", "confusion_test", "confusion_test_all")
    ]
    asked = [(f"tables.{kind}", TABLE_OPTIONS[kind], said) for kind, said in given.get("tables", {}).items()]
    asked += [
        (f"figures.{figure}", FIGURE_OPTIONS[kind], said)
        for figure, said in given.get("figures", {}).items()
        if (kind := figure_kind(figure)) is not None
    ]
    problems += [
        f"`{where}.tables.{kind}` lacks the key `{key}`"
        for kind, said in given.get("tables", {}).items()
        for key in TABLE_NEEDS[kind]
        if not (said or {}).get(key)
    ]
    problems += [
        f"`{where}.figures.{figure}.subset`: no {said['subset']} cell gets a prediction; add it to `subsets`"
        for figure, said in given.get("figures", {}).items()
        if said and said.get("subset", "test") not in given["subsets"]
    ]
    problems += [
        f"`{where}.{place}`: unknown key `{key}`{nearest(key, valid)} (valid: {', '.join(valid)})"
        for place, valid, said in asked
        for key in said or {}
        if key not in valid
    ]
    if "main" in given and given["main"] not in given["variants"]:
        problems.append(f"`{where}.main`: unknown variant `{given['main']}`{nearest(given['main'], given['variants'])}")
    return problems


def figure_kind(figure: str) -> str | None:
    """Return the kind of a study's figure: the longest one that its name is, or starts with before a ``_``."""
    found = [kind for kind in FIGURE_OPTIONS if figure == kind or figure.startswith(f"{kind}_")]
    return max(found, key=len, default=None)


def _leads_back(name: str, model: str, experiments: Mapping[str, Experiment]) -> bool:
    """Tell whether a model starts from weights that start, in the end, from its own."""
    seen: list[tuple[str, str]] = []
    at = (name, model)
    while at not in seen:
        seen.append(at)
        experiment = experiments.get(at[0])
        said = experiment.options.get(at[1]) if experiment else None
        if said is None or said.init_from is None:
            return False
        at = (said.init_from.experiment, said.init_from.model)
    return True


def _check_start(name: str, model: str, experiments: Mapping[str, Experiment]) -> list[str]:
    """Check where a model's first weights come from, as far as the config tells."""
    experiment = experiments[name]
    start, where = experiment.options[model].init_from, f"`experiments.{name}.models`: {model}: init_from"
    assert start is not None
    if start.experiment not in experiments:
        return [f"{where}: unknown experiment `{start.experiment}`{nearest(start.experiment, experiments)}"]
    if models.family(experiment.model(model).family).kind != "network":
        return [f"{where}: {model} is no network, and starts from no weights; remove it"]
    if _leads_back(name, model, experiments):
        return [f"{where}: leads back to {model} itself; let the first of the trainings start without"]
    source = experiments[start.experiment]
    told = (start.variant, start.model, start.loss)
    if told not in source.pairs():
        pairs = ["/".join(pair) for pair in source.pairs()]
        return [f"{where}: {source.name} trains no {'/'.join(told)}{nearest('/'.join(told), pairs)}"]
    problems = []
    theirs, ours = source.model(start.model), experiment.model(model)
    if (theirs.family, theirs.parameters, theirs.image_size, theirs.crop) != (
        ours.family, ours.parameters, ours.image_size, ours.crop,
    ):  # fmt: skip
        problems.append(f"{where}: {start.model} is another network; give both the same family, parameters and sizes")
    if source.channels != experiment.channels:
        problems.append(
            f"{where}: {source.name} sees {', '.join(source.channels)}, and {name} {', '.join(experiment.channels)}; "
            "start from an experiment with the same `channels`"
        )
    if start.head == "keep" and source.scheme.classes != experiment.scheme.classes:
        problems.append(
            f"{where}: the classes of {source.name} are {', '.join(source.scheme.classes)}, others than those of "
            f"{name}; set `head: new` to begin the last layer afresh"
        )
    folds = source.folds_of(start.variant, start.model)
    for variant, of_variant, _ in experiment.pairs():
        needed = experiment.folds_of(variant, of_variant)
        if of_variant == model and needed > folds:
            problems.append(
                f"{where}: {'/'.join(told)} has {folds} of the {needed} folds of {variant}; "
                "set `folds` of the model, or train the others"
            )
    missing = [seed for seed in experiment.seeds if seed not in source.seeds]
    if missing:
        problems.append(f"{where}: {source.name} is not trained with seed {missing[0]}; add it to its `seeds`")
    return problems


def requirements_of(experiment: Experiment) -> dict[str, Any]:
    """Return what an experiment's models ask of a data set, as `stainfree.requirements.check` takes it."""
    return {
        "channels": list(experiment.channels),
        "sizes": {entry.name: entry.image_size for entry in experiment.models},
        "smallest": {entry.name: models.family(entry.family).smallest_side for entry in experiment.models},
        "crops": {entry.name: entry.crop for entry in experiment.models},
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
    asked: tuple[str, ...]
    """The experiments that the data set was checked for: those that this run is asked for."""
    seed: int
    mirror: str
    threads: int
    device: str
    fan_out: bool
    """Whether each part of a training is a job of its own."""
    bootstrap: int


def check(config: Mapping[str, Any], *, workflow: Path, targets: Sequence[str] | None = ()) -> Settings:
    """Check a configuration in full.

    Parameters
    ----------
    config
        What config.yaml and the command line say together.
    workflow
        The folder that holds ``schemas/config.schema.yaml``, ``datasets.yaml`` and ``studies/``.
    targets
        Words of the command line: experiments among them are asked for, else those that the config builds. None where
        nothing is asked for, as in a job of a run that was checked when it began.

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
        problems += [
            problem
            for name, experiment in experiments.items()
            for model, said in experiment.options.items()
            if said.init_from is not None and any(entry.name == model for entry in experiment.models)
            for problem in _check_start(name, model, experiments)
        ]
    asked = [name for name in experiments if name in (targets or ())]
    asked = asked or (config["build"] if targets is not None else [])
    if not problems:
        channels = datasets[config["dataset"]].get("channels", {})
        for name in asked:
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
        asked=tuple(asked),
        seed=config["seed"],
        mirror=config["mirror"],
        threads=config["training"]["threads"],
        device=config["training"]["device"],
        fan_out=config["fan_out"],
        bootstrap=config["evaluation"]["bootstrap"],
    )
