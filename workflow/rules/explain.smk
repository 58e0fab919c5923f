"""Explanations: saliency maps and the map of an embedding, as data."""


rule saliency:
    input:
        cells="data/{dataset}.h5",
        models=get_trained("model.json", get_explained),
        weights=get_trained("weights", get_explained),
        predictions=get_trained("predictions.parquet", get_explained),
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    output:
        maps="results/{dataset}/{experiment}/saliency/maps.h5",
        cells="results/{dataset}/{experiment}/saliency/cells.csv",
        shares="results/{dataset}/{experiment}/saliency/shares.csv",
    log:
        "logs/saliency/{dataset}/{experiment}.log",
    benchmark:
        "logs/saliency/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(4000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        options=lambda wildcards: {
            "judge": get_experiment(wildcards).explain["judge"],
            "classes": get_experiment(wildcards).explain["classes"],
            "seed": SETTINGS.seed,
        },
        code=lambda wildcards: get_digest(
            "saliency", "explain", *get_families(get_experiment(wildcards))
        ),
    message:
        "Explain test cells of {wildcards.dataset} by the models of {wildcards.experiment}"
    script:
        "../../scripts/saliency.py"


rule embedding:
    input:
        embeddings=get_trained("embeddings.parquet", get_mapped),
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    output:
        embedding="results/{dataset}/{experiment}/embedding/{model}.parquet",
    log:
        "logs/embedding/{dataset}/{experiment}/{model}.log",
    benchmark:
        "logs/embedding/{dataset}/{experiment}/{model}.benchmark.tsv"
    conda:
        "../../envs/embedding.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(2000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        pairs=get_mapped,
        options=lambda wildcards: {
            "fold": 0,
            "seed": get_experiment(wildcards).seeds[0],
            "thin": get_experiment(wildcards).explain.get("thin", {}),
            "random_state": SETTINGS.seed,
        },
        code=get_code("embedding", "embedding"),
    message:
        "Map the embedding of {wildcards.model} ({wildcards.dataset}, {wildcards.experiment})"
    script:
        "../../scripts/embedding.py"
