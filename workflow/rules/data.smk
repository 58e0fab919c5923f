"""From the source's files to cells in HDF5, and to the splits."""


rule download:
    output:
        manifest="data/raw/{dataset}.json",
    log:
        "logs/download/{dataset}.log",
    benchmark:
        "logs/download/{dataset}.benchmark.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(240),
        attempt=get_attempt,
    params:
        description=lambda wildcards: SETTINGS.datasets[wildcards.dataset],
        raw="data/raw/{dataset}",
        code=get_code("download", "data"),
    message:
        "Fetch the files of {wildcards.dataset}"
    script:
        "../../scripts/download.py"


rule convert:
    input:
        source=get_source,
    output:
        cells="data/{dataset}.h5",
        report="data/{dataset}.json",
    log:
        "logs/convert/{dataset}.log",
    benchmark:
        "logs/convert/{dataset}.benchmark.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(2000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        description=lambda wildcards: SETTINGS.datasets[wildcards.dataset],
        raw="data/raw/{dataset}",
        fingerprint=get_fingerprint,
        code=lambda wildcards: get_digest("convert", "data", get_kind(wildcards)),
    message:
        "Convert {wildcards.dataset} to HDF5"
    script:
        "../../scripts/convert.py"


rule split:
    input:
        cells="data/{dataset}.h5",
    output:
        split="results/{dataset}/{experiment}/{variant}/split.parquet",
    log:
        "logs/split/{dataset}/{experiment}/{variant}.log",
    benchmark:
        "logs/split/{dataset}/{experiment}/{variant}.benchmark.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        split=lambda wildcards: get_experiment(wildcards)
        .variant(wildcards.variant)
        .split,
        scheme=lambda wildcards: dataclasses.asdict(get_experiment(wildcards).scheme),
        sources=lambda wildcards: get_experiment(wildcards).sources.get(
            wildcards.dataset
        ),
        seed=get_split_seed,
        code=get_code("split", "data"),
    message:
        "Split {wildcards.dataset} for {wildcards.experiment}/{wildcards.variant}"
    script:
        "../../scripts/split.py"
