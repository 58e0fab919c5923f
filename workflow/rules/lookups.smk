"""What rules ask of the config: files of an experiment, settings of a step, digests of its code."""

import dataclasses
import json
from functools import cache

from stainfree.schemes import slug


def get_experiment(wildcards):
    """The experiment that the wildcards name."""
    return SETTINGS.experiments[wildcards.experiment]


def get_code(step, environment, *plugins):
    """A parameter: `get_digest`, asked only for jobs that are planned, since each job on a cluster reads all rules."""
    return lambda wildcards: get_digest(step, environment, *plugins)


@cache
def get_digest(step, environment, *plugins):
    """Digest of the code and the package versions behind a step (see stainfree.staleness); jobs by the hundred ask."""
    return staleness.code_digest(
        ROOT / "scripts" / f"{step}.py",
        plugins=plugins,
        environment=ROOT / "envs" / f"{environment}.yaml",
        lock=ROOT / "requirements.lock",
    )


def get_memory(mib):
    """A resource: `mib` at the first attempt, as much again at each further one, since memory may have run out."""
    return lambda wildcards, attempt: mib * attempt


def get_runtime(minutes):
    """A resource: `minutes` at the first attempt, as many again at each further one, since time may have run out."""
    return lambda wildcards, attempt: minutes * attempt


def get_attempt(wildcards, attempt):
    """A resource: which attempt at the job it is; 1 is the first. Scripts know it from here."""
    return attempt


def get_templates(without):
    """Files that pages are filled from, without those of the page that is left out: `index` or `report`."""
    folder = ROOT / "src" / "stainfree" / "templates"
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in (without, f"{without}.html.j2")
    )


def get_requested():
    """Experiments that this run is asked for: those named as targets, or those that the config builds."""
    named = [
        str(target)
        for target in workflow.dag_settings.targets
        if str(target) in SETTINGS.experiments
    ]
    return named or list(SETTINGS.build)


def get_families(experiment):
    """Files of the model families of an experiment."""
    return [models.family_path(entry.family) for entry in experiment.models]


def get_pairs(wildcards):
    """All (variant, model, loss) of an experiment."""
    return [list(pair) for pair in get_experiment(wildcards).pairs()]


def get_main_variant(experiment):
    """The variant that figures show."""
    return experiment.main


def get_main_pairs(experiment):
    """The (variant, model, loss) of the variant that figures show."""
    return [
        list(pair)
        for pair in experiment.pairs()
        if pair[0] == get_main_variant(experiment)
    ]


def get_trained(name, pairs=get_pairs):
    """An input function: the file `name` of every training that `pairs` gives for the wildcards."""
    return lambda wildcards: [
        f"results/{wildcards.dataset}/{wildcards.experiment}/{variant}/{model}/{loss}/{name}"
        for variant, model, loss in pairs(wildcards)
    ]


def get_main_trained(name):
    """An input function: the file `name` of every training of the variant that figures show."""
    return get_trained(
        name, lambda wildcards: get_main_pairs(get_experiment(wildcards))
    )


def get_main_split(wildcards):
    """The split of the variant that figures show."""
    variant = get_main_variant(get_experiment(wildcards))
    return f"results/{wildcards.dataset}/{wildcards.experiment}/{variant}/split.parquet"


def get_kind(wildcards):
    """The file that reads the data set's kind of source."""
    return (
        ROOT
        / "src"
        / "stainfree"
        / "datasets"
        / f"{SETTINGS.datasets[wildcards.dataset]['kind']}.py"
    )


def get_source(wildcards):
    """What is converted: the manifest of the download, or the user's own files.

    A folder of pictures, a file per cell, is followed by a fingerprint instead (a parameter of the rule).
    """
    description = SETTINGS.datasets[wildcards.dataset]
    if description.get("path"):
        return (
            [] if description["kind"] == "folder" else sources.source_files(description)
        )
    return ["data/raw/{dataset}.json"] if description.get("files") else []


def get_fingerprint(wildcards):
    """Names, sizes and times of the files of a folder of pictures."""
    description = SETTINGS.datasets[wildcards.dataset]
    return sources.fingerprint(description) if description["kind"] == "folder" else None


# Where a training puts its results, and a part of it its own.
TRAINING = "results/{dataset}/{experiment}/{variant}/{model}/{loss}"
PART = (
    "work/parts/{dataset}/{experiment}/{variant}/{model}/{loss}/fold{fold}-seed{seed}"
)


def get_plan(wildcards):
    """All that decides a training, as plain values (see stainfree.training.Plan)."""
    experiment = get_experiment(wildcards)
    start, tuned = get_start(wildcards), get_tuned(wildcards)
    return {
        "dataset": wildcards.dataset,
        "experiment": wildcards.experiment,
        "variant": wildcards.variant,
        "model": dataclasses.asdict(
            experiment.trained_model(wildcards.variant, wildcards.model)
        ),
        "loss": wildcards.loss,
        "channels": list(experiment.channels),
        "scheme": dataclasses.asdict(experiment.scheme),
        "fit": experiment.fit,
        "seeds": list(experiment.seeds),
        "subsets": list(experiment.subsets),
        "folds": experiment.folds_of(wildcards.variant, wildcards.model),
        "init_from": start or None,
        "tuned": tuned or None,
        "code": get_training_code(wildcards),
        "threads": SETTINGS.threads,
        "device": SETTINGS.device,
    }


def get_start(wildcards):
    """Where the weights of a training start from: folder, split, head; nothing where they are drawn."""
    start = get_experiment(wildcards).options[wildcards.model].init_from
    if start is None:
        return {}
    variant = f"results/{wildcards.dataset}/{start.experiment}/{start.variant}"
    return {
        "folder": f"{variant}/{start.model}/{start.loss}",
        "split": f"{variant}/split.parquet",
        "head": start.head,
    }


def get_start_files(wildcards):
    """The files that the weights of a training start from."""
    start = get_start(wildcards)
    return (
        [start["split"], f"{start['folder']}/model.json", f"{start['folder']}/weights"]
        if start
        else []
    )


def get_tuned(wildcards):
    """The settings that were found best for each fold, where a model's settings are searched."""
    searched = get_experiment(wildcards).options[wildcards.model].tune
    return f"{TRAINING}/tuning/best.json".format(**wildcards) if searched else []


def get_search(wildcards):
    """What is searched for a model before its training, as plain values (see stainfree.search.Search)."""
    return dataclasses.asdict(get_experiment(wildcards).options[wildcards.model].tune)


def get_search_plan(wildcards):
    """What decides a search beside that: the training whose settings are searched, with its first seed."""
    plan = get_plan(wildcards)
    code = get_training_code(wildcards, step="tune", environment="tune")
    return {
        **{key: plan[key] for key in plan if key not in ("subsets", "tuned")},
        "seeds": plan["seeds"][:1],
        "code": code,
    }


def get_parts(wildcards):
    """Folders of the finished parts of a training, in the order in which they are joined."""
    experiment = get_experiment(wildcards)
    return [
        PART.format(**wildcards, fold=fold, seed=seed)
        for fold in range(experiment.folds_of(wildcards.variant, wildcards.model))
        for seed in experiment.seeds
    ]


def get_training_code(wildcards, step="train", environment="train"):
    """Digest of the training's code, or of another step's that trains: the loop, this family and this loss, no other."""
    entry = get_experiment(wildcards).model(wildcards.model)
    # One digest for a training, in one job or in several: its results and checkpoints are the same.
    scripts = ["train_part", "join_parts"] if step == "train" else []
    return get_digest(
        step,
        environment,
        *(ROOT / "scripts" / f"{script}.py" for script in scripts),
        models.family_path(entry.family),
        *(
            []
            if wildcards.loss == models.NO_LOSS
            else [losses.loss_path(wildcards.loss)]
        ),
    )


def get_study(wildcards):
    """What the experiment's study says, where it rebuilds one."""
    study = get_experiment(wildcards).study
    return f"workflow/studies/{study}.yaml" if study else []


def get_split_seed(wildcards):
    """Seed of a variant's split."""
    variant = get_experiment(wildcards).variant(wildcards.variant)
    return variant.split.get("seed", SETTINGS.seed)


def get_splits(wildcards):
    """The splits of an experiment, one per variant."""
    return [
        f"results/{wildcards.dataset}/{wildcards.experiment}/{variant.name}/split.parquet"
        for variant in get_experiment(wildcards).variants
    ]


def get_split_variants(wildcards):
    """The variants whose splits `get_splits` gives, in the same order."""
    return [variant.name for variant in get_experiment(wildcards).variants]


def get_evaluation_options(wildcards):
    """What the tidy table of scores says of the experiment, and how its intervals are drawn."""
    experiment = get_experiment(wildcards)
    return {
        "dataset": wildcards.dataset,
        "experiment": wildcards.experiment,
        "channels": list(experiment.channels),
        "scheme": experiment.scheme.name,
        "variants": {
            variant.name: {"protocol": variant.protocol, "balancing": variant.balancing}
            for variant in experiment.variants
        },
        "bootstrap": SETTINGS.bootstrap,
        "seed": SETTINGS.seed,
    }


def get_mapped(wildcards):
    """The (variant, model, loss) of the mapped model in the variant that is explained; the chosen loss is mapped."""
    experiment = get_experiment(wildcards)
    # Where there is one map alone, its figure does not name the model.
    model = wildcards.get("model", experiment.explain["embedding"])
    return [
        list(pair)
        for pair in experiment.pairs()
        if pair[:2] == (experiment.explained, model)
    ]


# Figure -> its title in the report that snakemake makes, and what it shows.
CONFUSIONS = {
    "confusion_train": ("confusion matrices, train", {"subset": "train"}),
    "confusion_test": ("confusion matrices, test", {"subset": "test"}),
    "confusion_test_all": (
        "confusion matrices, all pairs",
        {"subset": "test", "all_losses": True},
    ),
}


def get_saliency_figures(experiment):
    """Names of the saliency figures of an experiment, and what each shows."""
    return {
        f"saliency_{slug(cell_class)}_{outcome}": {
            "cell_class": cell_class,
            "outcome": outcome,
        }
        for cell_class in experiment.explain["classes"]
        for outcome in ("wrong", "right")
    }


def get_figures(experiment):
    """All figure files of an experiment."""
    names = ["examples", "architecture", "curves"]
    pairs = get_main_pairs(experiment)
    one_loss = len({model for _, model, _ in pairs}) == len(pairs)
    names += [
        name
        for name, (_, what) in CONFUSIONS.items()
        if what["subset"] in experiment.subsets
        and not (one_loss and what.get("all_losses"))
    ]
    names += experiment.figures
    pages = []
    if experiment.explain:
        mapped = experiment.explain["embedding"]
        several = isinstance(mapped, list)
        names += get_saliency_figures(experiment)
        names += (
            [f"embedding_{model}" for model in mapped] if several else ["embedding"]
        )
        pages = [f"embedding/{name}.html" for name in (mapped if several else ["map"])]
    return [
        f"figures/{name}.{kind}" for name in names for kind in ("svg", "png")
    ] + pages


def shown(name, title):
    """The SVG of a figure, with its place in the report that snakemake makes."""
    return report(
        f"results/{{dataset}}/{{experiment}}/figures/{name}.svg",
        caption=f"../report/{name}.rst",
        category="{dataset}, {experiment}",
        subcategory="Figures",
        labels={"figure": title},
    )


def get_result_names(experiment):
    """Names of all files below an experiment's folder that its report shows or links."""
    tables = [
        "class_counts",
        "balanced_accuracy",
        "balanced_accuracy_by_source",
        "scores",
    ]
    tables += experiment.tables
    names = ["metrics.csv", *(f"tables/{name}.csv" for name in tables)]
    names += ["claims.csv"] if experiment.study else []
    return names + get_figures(experiment)


def get_results(wildcards):
    """All that a report shows."""
    folder = f"results/{wildcards.dataset}/{wildcards.experiment}"
    return [f"{folder}/{name}" for name in get_result_names(get_experiment(wildcards))]


def get_report_parameters(wildcards):
    """Parameters of the report's notebook."""
    experiment = get_experiment(wildcards)
    return {
        "dataset": wildcards.dataset,
        "experiment": wildcards.experiment,
        "results": "results",
        "data_report": f"data/{wildcards.dataset}.json",
        "study": (
            f"workflow/studies/{experiment.study}.yaml" if experiment.study else ""
        ),
        "logs": "logs",
        "files": json.dumps(get_result_names(experiment)),
        "main": experiment.main,
        "config": json.dumps(
            {
                "dataset": {wildcards.dataset: SETTINGS.datasets[wildcards.dataset]},
                "seed": SETTINGS.seed,
                "training": {"threads": SETTINGS.threads, "device": SETTINGS.device},
                "evaluation": {"bootstrap": SETTINGS.bootstrap},
                "experiment": dataclasses.asdict(experiment),
            },
            default=str,
        ),
    }


# Measures.


def get_measured(wildcards):
    """`model.json` of every training of the experiments that the config builds, those of main variants first."""
    pairs = [
        (name, *pair)
        for name in SETTINGS.build
        for pair in SETTINGS.experiments[name].pairs()
    ]
    pairs.sort(key=lambda pair: pair[1] != SETTINGS.experiments[pair[0]].main)
    return [
        f"results/{wildcards.dataset}/{'/'.join(pair)}/model.json" for pair in pairs
    ]


# Study tables.
def get_table_options(wildcards):
    """Options of a study's table, as config gives them."""
    return dict(get_experiment(wildcards).tables[wildcards.table])


def get_transfer_start(wildcards):
    """The training that a model of the table `transfer` starts from; nothing for other tables."""
    if wildcards.table != "transfer":
        return {}
    experiment = get_experiment(wildcards)
    starts = (
        experiment.options[model].init_from
        for model in experiment.tables["transfer"]["models"]
        if model in experiment.options
    )
    start = next((start for start in starts if start is not None), None)
    return dataclasses.asdict(start) if start else {}


def get_transfer_files(name):
    """An input function: a file of the experiment that a model of the table `transfer` starts from."""

    def get(wildcards):
        start = get_transfer_start(wildcards)
        folder = f"results/{wildcards.dataset}/{{experiment}}"
        return f"{folder}/{name}".format(**start) if start else []

    return get


# Study figures.
def get_figure_names(kind, *others):
    """A pattern of the names that figures of a kind have in any experiment, and of `others`."""
    names = {
        name
        for experiment in SETTINGS.experiments.values()
        for name in experiment.figures
        if configuration.figure_kind(name) == kind
    }
    return "|".join(sorted({*others, *names})) or "(?!)"


def get_figure(wildcards):
    """Options of a study's figure, as config gives them."""
    return get_experiment(wildcards).figures[wildcards.figure]


def get_figure_pairs(wildcards):
    """The (variant, model, loss) that a study's figure shows, in the order of its options.

    Where these name no variant it is the main one, and where they name no model it is all.
    """
    experiment = get_experiment(wildcards)
    options = get_figure(wildcards)
    variants = options.get("variants") or [options.get("variant", experiment.main)]
    shown = [options["model"]] if "model" in options else options.get("models")
    shown = shown or [entry.name for entry in experiment.models]
    return [
        list(pair)
        for variant in variants
        for model in shown
        for pair in experiment.pairs()
        if pair[:2] == (variant, model)
    ]


def get_figure_options(wildcards):
    """What a figure of scores shows: variants and models that are trained, metrics, and what its groups are."""
    options, pairs = get_figure(wildcards), get_figure_pairs(wildcards)
    return {
        "variants": list(dict.fromkeys(variant for variant, _, _ in pairs)),
        "models": list(dict.fromkeys(model for _, model, _ in pairs)),
        **{key: options[key] for key in ("metrics", "by") if key in options},
    }


def get_confusion(wildcards):
    """What a figure of confusion matrices shows: its (variant, model, loss), its subset, and whether of all losses."""
    if wildcards.figure in CONFUSIONS:
        pairs = get_main_pairs(get_experiment(wildcards))
        return {"pairs": pairs, **CONFUSIONS[wildcards.figure][1]}
    subset = get_figure(wildcards).get("subset", "test")
    return {"pairs": get_figure_pairs(wildcards), "subset": subset}


def get_augmentations(wildcards):
    """Variant -> how it augments training images, of the variants that say so."""
    experiment, options = get_experiment(wildcards), get_figure(wildcards)
    named = [options["variant"]] if "variant" in options else options.get("variants")
    named = named or [variant.name for variant in experiment.variants]
    return {
        variant.name: dict(variant.augment)
        for name in named
        for variant in experiment.variants
        if variant.name == name and variant.augment is not None
    }


def get_figure_split(wildcards):
    """The split of the variant that a study's figure shows: the main one where its options name none."""
    experiment = get_experiment(wildcards)
    variant = get_figure(wildcards).get("variant", experiment.main)
    return f"results/{wildcards.dataset}/{wildcards.experiment}/{variant}/split.parquet"


def get_drawn(wildcards):
    """The (variant, model, loss) whose layers are drawn: of the main variant, and of others what is not trained there."""
    experiment = get_experiment(wildcards)
    pairs = sorted(experiment.pairs(), key=lambda pair: pair[0] != experiment.main)
    variant_of = {model: variant for variant, model, _ in reversed(pairs)}
    return [pair for pair in pairs if pair[0] == variant_of[pair[1]]]


def get_explained(wildcards):
    """The (variant, model, loss) of the networks of the variant that is explained: what else there is has no gradient."""
    experiment = get_experiment(wildcards)
    return [
        list(pair)
        for pair in experiment.pairs()
        if pair[0] == experiment.explained
        and models.family(experiment.model(pair[1]).family).kind == "network"
    ]
