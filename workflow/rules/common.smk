"""Reads and checks the config, and what several stages ask of it."""

import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from stainfree import config as configuration
from stainfree import losses, models, staleness
from stainfree.errors import ConfigError

try:
    SETTINGS = configuration.check(config, workflow=ROOT / "workflow")
except ConfigError as error:
    sys.exit("\n".join(f"config: {line}" for line in str(error).split("\n")))


wildcard_constraints:
    dataset="|".join(SETTINGS.datasets),
    experiment="|".join(SETTINGS.experiments),
    variant="[A-Za-z][A-Za-z0-9_]*",
    model="[A-Za-z][A-Za-z0-9_]*",
    loss="[A-Za-z][A-Za-z0-9_]*",


def get_experiment(wildcards):
    """The experiment that the wildcards name."""
    return SETTINGS.experiments[wildcards.experiment]


def get_code(step, environment, *plugins):
    """Digest of the code and the package versions behind a step (see stainfree.staleness)."""
    return staleness.code_digest(
        ROOT / "scripts" / f"{step}.py",
        plugins=plugins,
        environment=ROOT / "envs" / f"{environment}.yaml",
        lock=ROOT / "requirements.lock",
    )


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
    return [list(pair) for pair in experiment.pairs() if pair[0] == get_main_variant(experiment)]


def get_published_pairs(experiment):
    """Model -> the loss that the experiment's study picked for it."""
    if not experiment.study:
        return {}
    return configuration.read_yaml(ROOT / "workflow" / "studies" / f"{experiment.study}.yaml").get("published_pairs", {})


def get_trained(name, pairs=get_pairs):
    """An input function: the file `name` of every training that `pairs` gives for the wildcards."""
    return lambda wildcards: [
        f"results/{wildcards.dataset}/{wildcards.experiment}/{variant}/{model}/{loss}/{name}"
        for variant, model, loss in pairs(wildcards)
    ]


def get_main_trained(name):
    """An input function: the file `name` of every training of the variant that figures show."""
    return get_trained(name, lambda wildcards: get_main_pairs(get_experiment(wildcards)))


def get_main_split(wildcards):
    """The split of the variant that figures show."""
    variant = get_main_variant(get_experiment(wildcards))
    return f"results/{wildcards.dataset}/{wildcards.experiment}/{variant}/split.parquet"
