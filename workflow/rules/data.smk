"""From the source's files to cells in HDF5, and to the splits."""

import dataclasses


def get_kind(wildcards):
    """The file that reads the data set's kind of source."""
    return ROOT / "src" / "stainfree" / "datasets" / f"{SETTINGS.datasets[wildcards.dataset]['kind']}.py"


def get_downloaded(wildcards):
    """The manifest of the source's files, for a data set that has any to fetch."""
    if SETTINGS.datasets[wildcards.dataset].get("files"):
        return "data/raw/{dataset}.json"
    return []


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
        mem_mb=1000,
        runtime=240,
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
        manifest=get_downloaded,
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
        mem_mb=2000,
        runtime=60,
    params:
        description=lambda wildcards: SETTINGS.datasets[wildcards.dataset],
        raw="data/raw/{dataset}",
        code=lambda wildcards: get_code("convert", "data", get_kind(wildcards)),
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
        mem_mb=1000,
        runtime=10,
    params:
        split=lambda wildcards: get_experiment(wildcards).variant(wildcards.variant).split,
        scheme=lambda wildcards: dataclasses.asdict(get_experiment(wildcards).scheme),
        sources=lambda wildcards: get_experiment(wildcards).sources.get(wildcards.dataset),
        seed=SETTINGS.seed,
        code=get_code("split", "data"),
    message:
        "Split {wildcards.dataset} for {wildcards.experiment}/{wildcards.variant}"
    script:
        "../../scripts/split.py"


rule check_data:
    input:
        cells="data/{dataset}.h5",
    output:
        checked="results/{dataset}/{experiment}/checked.json",
    log:
        "logs/check_data/{dataset}/{experiment}.log",
    benchmark:
        "logs/check_data/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        channels=lambda wildcards: list(get_experiment(wildcards).channels),
        sizes=lambda wildcards: {
            entry.name: models.family(entry.family).image_size for entry in get_experiment(wildcards).models
        },
        fit=lambda wildcards: get_experiment(wildcards).fit,
        code=get_code("check_data", "data"),
    message:
        "Check that {wildcards.dataset} has what {wildcards.experiment} asks for"
    script:
        "../../scripts/check_data.py"
