"""Training: one job per (variant, model, loss), all of its folds and seeds inside."""

import dataclasses


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


def get_training_code(wildcards):
    """Digest of the training's code: the loop, this model's family and this loss, no other."""
    entry = get_experiment(wildcards).model(wildcards.model)
    return get_code("train", "train", models.family_path(entry.family), losses.loss_path(wildcards.loss))


rule train:
    input:
        cells="data/{dataset}.h5",
        split="results/{dataset}/{experiment}/{variant}/split.parquet",
        # Before any training, but of no weight for a training that is done: another model in the experiment makes
        # the check run again, and no training stale.
        checked=ancient("results/{dataset}/{experiment}/checked.json"),
    output:
        predictions="results/{dataset}/{experiment}/{variant}/{model}/{loss}/predictions.parquet",
        embeddings="results/{dataset}/{experiment}/{variant}/{model}/{loss}/embeddings.parquet",
        history="results/{dataset}/{experiment}/{variant}/{model}/{loss}/history.csv",
        model="results/{dataset}/{experiment}/{variant}/{model}/{loss}/model.json",
        weights=directory("results/{dataset}/{experiment}/{variant}/{model}/{loss}/weights"),
    log:
        "logs/train/{dataset}/{experiment}/{variant}/{model}/{loss}.log",
    benchmark:
        "logs/train/{dataset}/{experiment}/{variant}/{model}/{loss}.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        plan=get_plan,
    message:
        "Train {wildcards.model} under {wildcards.loss} ({wildcards.dataset}, {wildcards.experiment}/{wildcards.variant})"
    script:
        "../../scripts/train.py"
