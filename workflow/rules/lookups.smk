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
    """The variant that figures show: the first."""
    return experiment.variants[0].name


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
    return {
        "dataset": wildcards.dataset,
        "experiment": wildcards.experiment,
        "variant": wildcards.variant,
        "model": dataclasses.asdict(experiment.model(wildcards.model)),
        "loss": wildcards.loss,
        "channels": list(experiment.channels),
        "scheme": dataclasses.asdict(experiment.scheme),
        "fit": experiment.fit,
        "seeds": list(experiment.seeds),
        "subsets": list(experiment.subsets),
        "code": get_training_code(wildcards),
        "threads": SETTINGS.threads,
        "device": SETTINGS.device,
    }


def get_parts(wildcards):
    """Folders of the finished parts of a training, in the order in which they are joined."""
    experiment = get_experiment(wildcards)
    return [
        PART.format(**wildcards, fold=fold, seed=seed)
        for fold in range(experiment.variant(wildcards.variant).folds)
        for seed in experiment.seeds
    ]


def get_training_code(wildcards):
    """Digest of the training's code: the loop, this model's family and this loss, no other."""
    entry = get_experiment(wildcards).model(wildcards.model)
    return get_digest(
        "train",
        "train",
        # One digest for a training, in one job or in several: its results and checkpoints are the same.
        ROOT / "scripts" / "train_part.py",
        ROOT / "scripts" / "join_parts.py",
        models.family_path(entry.family),
        losses.loss_path(wildcards.loss),
    )


def get_study(wildcards):
    """What the experiment's study says, where it rebuilds one."""
    study = get_experiment(wildcards).study
    return f"workflow/studies/{study}.yaml" if study else []


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
    """The (variant, model, loss) of the mapped model in the variant that figures show; the chosen loss is mapped."""
    experiment = get_experiment(wildcards)
    model = wildcards.get("model", experiment.explain["embedding"])
    return [pair for pair in get_main_pairs(experiment) if pair[1] == model]


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
    names += [
        name
        for name, (_, what) in CONFUSIONS.items()
        if what["subset"] in experiment.subsets
    ]
    pages = []
    if experiment.explain:
        names += [*get_saliency_figures(experiment), "embedding"]
        pages = ["embedding/map.html"]
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
