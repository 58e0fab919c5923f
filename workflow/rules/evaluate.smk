"""Scores, tables and claims: all from predictions, none from models."""


rule evaluate:
    input:
        predictions=get_trained("predictions.parquet"),
        splits=get_splits,
        study=get_study,
    output:
        metrics="results/{dataset}/{experiment}/metrics.csv",
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    log:
        "logs/evaluate/{dataset}/{experiment}.log",
    benchmark:
        "logs/evaluate/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(2000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        pairs=get_pairs,
        split_variants=get_split_variants,
        options=get_evaluation_options,
        code=get_code("evaluate", "evaluate"),
    message:
        "Score {wildcards.experiment} on {wildcards.dataset}"
    script:
        "../../scripts/evaluate.py"


rule make_tables:
    input:
        metrics="results/{dataset}/{experiment}/metrics.csv",
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
        splits=get_splits,
        predictions=get_main_trained("predictions.parquet"),
        study=get_study,
    output:
        class_counts=report(
            "results/{dataset}/{experiment}/tables/class_counts.csv",
            caption="../report/class_counts.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "cells per class and subset"},
        ),
        balanced_accuracy=report(
            "results/{dataset}/{experiment}/tables/balanced_accuracy.csv",
            caption="../report/balanced_accuracy.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "balanced accuracy"},
        ),
        by_source=report(
            "results/{dataset}/{experiment}/tables/balanced_accuracy_by_source.csv",
            caption="../report/balanced_accuracy_by_source.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "balanced accuracy by source"},
        ),
        scores=report(
            "results/{dataset}/{experiment}/tables/scores.csv",
            caption="../report/scores.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "all scores on test cells"},
        ),
    log:
        "logs/make_tables/{dataset}/{experiment}.log",
    benchmark:
        "logs/make_tables/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        pairs=lambda wildcards: get_main_pairs(get_experiment(wildcards)),
        split_variants=get_split_variants,
        classes=lambda wildcards: list(get_experiment(wildcards).scheme.classes),
        code=get_code("make_tables", "evaluate"),
    message:
        "Lay out the tables of {wildcards.experiment} on {wildcards.dataset}"
    script:
        "../../scripts/make_tables.py"


rule make_study_table:
    input:
        metrics="results/{dataset}/{experiment}/metrics.csv",
        splits=get_splits,
        models=get_trained("model.json"),
        study=get_study,
        metrics_before=get_transfer_files("metrics.csv"),
        split_before=get_transfer_files("{variant}/split.parquet"),
    output:
        csv=report(
            "results/{dataset}/{experiment}/tables/{table}.csv",
            caption="../report/study_table.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/make_study_table/{dataset}/{experiment}/{table}.log",
    benchmark:
        "logs/make_study_table/{dataset}/{experiment}/{table}.benchmark.tsv"
    wildcard_constraints:
        table="|".join(configuration.TABLE_OPTIONS),
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        options=get_table_options,
        start=get_transfer_start,
        split_variants=get_split_variants,
        classes=lambda wildcards: list(get_experiment(wildcards).scheme.classes),
        main=lambda wildcards: get_main_variant(get_experiment(wildcards)),
        code=get_code("make_study_table", "evaluate"),
    message:
        "Lay out the table {wildcards.table} of {wildcards.experiment} on {wildcards.dataset}"
    script:
        "../../scripts/make_study_table.py"


rule check_claims:
    input:
        study=get_study,
        # All variants: a claim may compare two.
        models=get_trained("model.json"),
        predictions=get_trained("predictions.parquet"),
        embeddings=get_main_trained("embeddings.parquet"),
        cells="data/{dataset}.h5",
        shares=lambda wildcards: (
            "results/{dataset}/{experiment}/saliency/shares.csv"
            if get_experiment(wildcards).explain
            else []
        ),
    output:
        csv=report(
            "results/{dataset}/{experiment}/claims.csv",
            caption="../report/claims.rst",
            category="{dataset}, {experiment}",
            subcategory="Tables",
            labels={"table": "claims of the study"},
        ),
    log:
        "logs/check_claims/{dataset}/{experiment}.log",
    benchmark:
        "logs/check_claims/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        main=lambda wildcards: get_main_variant(get_experiment(wildcards)),
        code=get_code("check_claims", "evaluate"),
    message:
        "Hold the claims of {wildcards.experiment} against the numbers on {wildcards.dataset}"
    script:
        "../../scripts/check_claims.py"
