"""Training: one job per (variant, model, loss), or, with `fan_out`, one per part (fold, seed) of it.

Before it, where a model asks for it, its settings are searched.
"""


rule tune:
    input:
        cells="data/{dataset}.h5",
        split="results/{dataset}/{experiment}/{variant}/split.parquet",
    output:
        best=f"{TRAINING}/tuning/best.json",
        trials=f"{TRAINING}/tuning/trials.csv",
    log:
        "logs/tune/{dataset}/{experiment}/{variant}/{model}/{loss}.log",
    benchmark:
        "logs/tune/{dataset}/{experiment}/{variant}/{model}/{loss}.benchmark.tsv"
    conda:
        "../../envs/tune.yaml"
    threads: SETTINGS.threads
    resources:
        # Snakemake lowers threads to the cores of the machine that it is started on, a login node say.
        cpus_per_task=SETTINGS.threads,
        mem_mb=get_memory(4000),
        runtime=get_runtime(480),
        attempt=get_attempt,
    params:
        plan=get_search_plan,
        search=get_search,
    message:
        "Search settings of {wildcards.model} under {wildcards.loss} ({wildcards.dataset}, {wildcards.experiment}/{wildcards.variant})"
    script:
        "../../scripts/tune.py"


if SETTINGS.fan_out:

    rule train_part:
        input:
            cells="data/{dataset}.h5",
            split="results/{dataset}/{experiment}/{variant}/split.parquet",
            start=get_start_files,
            tuned=get_tuned,
        output:
            part=temp(directory(PART)),
        log:
            "logs/train_part/{dataset}/{experiment}/{variant}/{model}/{loss}/fold{fold}-seed{seed}.log",
        benchmark:
            "logs/train_part/{dataset}/{experiment}/{variant}/{model}/{loss}/fold{fold}-seed{seed}.benchmark.tsv"
        wildcard_constraints:
            fold=r"\d+",
            seed=r"\d+",
        conda:
            "../../envs/train.yaml"
        threads: SETTINGS.threads
        resources:
            # Snakemake lowers threads to the cores of the machine that it is started on, a login node say.
            cpus_per_task=SETTINGS.threads,
            mem_mb=get_memory(4000),
            runtime=get_runtime(240),
            attempt=get_attempt,
        params:
            plan=get_plan,
        message:
            "Train {wildcards.model} under {wildcards.loss}, fold {wildcards.fold}, seed {wildcards.seed} ({wildcards.dataset}, {wildcards.experiment}/{wildcards.variant})"
        script:
            "../../scripts/train_part.py"

    rule join_parts:
        input:
            cells="data/{dataset}.h5",
            split="results/{dataset}/{experiment}/{variant}/split.parquet",
            start=get_start_files,
            tuned=get_tuned,
            parts=get_parts,
        output:
            predictions=f"{TRAINING}/predictions.parquet",
            embeddings=f"{TRAINING}/embeddings.parquet",
            history=f"{TRAINING}/history.csv",
            model=f"{TRAINING}/model.json",
            weights=directory(f"{TRAINING}/weights"),
        log:
            "logs/join_parts/{dataset}/{experiment}/{variant}/{model}/{loss}.log",
        benchmark:
            "logs/join_parts/{dataset}/{experiment}/{variant}/{model}/{loss}.benchmark.tsv"
        conda:
            "../../envs/train.yaml"
        threads: 1
        resources:
            mem_mb=get_memory(2000),
            runtime=get_runtime(30),
            attempt=get_attempt,
        params:
            plan=get_plan,
        message:
            "Join the parts of {wildcards.model} under {wildcards.loss} ({wildcards.dataset}, {wildcards.experiment}/{wildcards.variant})"
        script:
            "../../scripts/join_parts.py"

else:

    rule train:
        input:
            cells="data/{dataset}.h5",
            split="results/{dataset}/{experiment}/{variant}/split.parquet",
            start=get_start_files,
            tuned=get_tuned,
        output:
            predictions=f"{TRAINING}/predictions.parquet",
            embeddings=f"{TRAINING}/embeddings.parquet",
            history=f"{TRAINING}/history.csv",
            model=f"{TRAINING}/model.json",
            weights=directory(f"{TRAINING}/weights"),
        log:
            "logs/train/{dataset}/{experiment}/{variant}/{model}/{loss}.log",
        benchmark:
            "logs/train/{dataset}/{experiment}/{variant}/{model}/{loss}.benchmark.tsv"
        conda:
            "../../envs/train.yaml"
        threads: SETTINGS.threads
        resources:
            # Snakemake lowers threads to the cores of the machine that it is started on, a login node say.
            cpus_per_task=SETTINGS.threads,
            mem_mb=get_memory(4000),
            runtime=get_runtime(240),
            attempt=get_attempt,
        params:
            plan=get_plan,
        message:
            "Train {wildcards.model} under {wildcards.loss} ({wildcards.dataset}, {wildcards.experiment}/{wildcards.variant})"
        script:
            "../../scripts/train.py"
