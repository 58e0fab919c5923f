"""Training: one job per (variant, model, loss), all of its folds and seeds inside."""


rule train:
    input:
        cells="data/{dataset}.h5",
        split="results/{dataset}/{experiment}/{variant}/split.parquet",
    output:
        predictions="results/{dataset}/{experiment}/{variant}/{model}/{loss}/predictions.parquet",
        embeddings="results/{dataset}/{experiment}/{variant}/{model}/{loss}/embeddings.parquet",
        history="results/{dataset}/{experiment}/{variant}/{model}/{loss}/history.csv",
        model="results/{dataset}/{experiment}/{variant}/{model}/{loss}/model.json",
        weights=directory(
            "results/{dataset}/{experiment}/{variant}/{model}/{loss}/weights"
        ),
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
