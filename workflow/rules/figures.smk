"""Figures: numbers in, pictures out, each as SVG and PNG."""


rule plot_examples:
    input:
        cells="data/{dataset}.h5",
        split=get_main_split,
    output:
        svg=shown("examples", "example cells"),
        png="results/{dataset}/{experiment}/figures/examples.png",
    log:
        "logs/plot_examples/{dataset}/{experiment}.log",
    benchmark:
        "logs/plot_examples/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        options={"seed": SETTINGS.seed},
        code=get_code("plot_examples", "figures"),
    message:
        "Draw example cells of {wildcards.dataset} for {wildcards.experiment}"
    script:
        "../../scripts/plot_examples.py"


rule plot_architecture:
    input:
        models=get_trained("model.json", get_drawn),
    output:
        svg=shown("architecture", "architecture"),
        png="results/{dataset}/{experiment}/figures/architecture.png",
    log:
        "logs/plot_architecture/{dataset}/{experiment}.log",
    benchmark:
        "logs/plot_architecture/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        code=get_code("plot_architecture", "figures"),
    message:
        "Draw the networks of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_architecture.py"


rule plot_curves:
    input:
        histories=get_main_trained("history.csv"),
        models=get_main_trained("model.json"),
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
        split=get_main_split,
    output:
        svg=shown("curves", "loss and accuracy curves"),
        png="results/{dataset}/{experiment}/figures/curves.png",
    log:
        "logs/plot_curves/{dataset}/{experiment}.log",
    benchmark:
        "logs/plot_curves/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        pairs=lambda wildcards: get_main_pairs(get_experiment(wildcards)),
        code=get_code("plot_curves", "figures"),
    message:
        "Draw the learning curves of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_curves.py"


rule plot_confusion:
    input:
        predictions=get_trained(
            "predictions.parquet", lambda wildcards: get_confusion(wildcards)["pairs"]
        ),
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/confusion.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels=lambda wildcards: {
                "figure": CONFUSIONS.get(wildcards.figure, [wildcards.figure])[0]
            },
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_confusion/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_confusion/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=get_figure_names("confusion", *CONFUSIONS),
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        shows=get_confusion,
        code=get_code("plot_confusion", "figures"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_confusion.py"


rule plot_saliency:
    input:
        maps="results/{dataset}/{experiment}/saliency/maps.h5",
        cells="results/{dataset}/{experiment}/saliency/cells.csv",
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/saliency.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_saliency/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_saliency/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure="saliency_[a-z0-9_]+_(right|wrong)",
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        judge=lambda wildcards: get_experiment(wildcards).explain["judge"],
        pairs=get_explained,
        shows=lambda wildcards: get_saliency_figures(get_experiment(wildcards))[
            wildcards.figure
        ],
        code=get_code("plot_saliency", "figures"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_saliency.py"


rule plot_embedding:
    input:
        coordinates=lambda wildcards: "results/{}/{}/embedding/{}.parquet".format(
            wildcards.dataset,
            wildcards.experiment,
            wildcards.get("model", get_experiment(wildcards).explain["embedding"]),
        ),
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
    output:
        svg=shown("embedding", "map of the embedding"),
        png="results/{dataset}/{experiment}/figures/embedding.png",
        html=report(
            "results/{dataset}/{experiment}/embedding/map.html",
            caption="../report/embedding_page.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "map of the embedding, to turn"},
        ),
    log:
        "logs/plot_embedding/{dataset}/{experiment}.log",
    benchmark:
        "logs/plot_embedding/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        classes=lambda wildcards: list(get_experiment(wildcards).scheme.classes),
        pairs=get_mapped,
        code=get_code("plot_embedding", "figures"),
    message:
        "Draw the embedding map of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_embedding.py"


# embedding/map.html is the map of the only model, and not that of one called `map`.
ruleorder: plot_embedding > plot_embedding_of


# The same of each model, where several are mapped.
use rule plot_embedding as plot_embedding_of with:
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/embedding_{model}.svg",
            caption="../report/embedding.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "map of the embedding of {model}"},
        ),
        png="results/{dataset}/{experiment}/figures/embedding_{model}.png",
        html=report(
            "results/{dataset}/{experiment}/embedding/{model}.html",
            caption="../report/embedding_page.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "map of the embedding of {model}, to turn"},
        ),
    log:
        "logs/plot_embedding/{dataset}/{experiment}/{model}.log",
    benchmark:
        "logs/plot_embedding/{dataset}/{experiment}/{model}.benchmark.tsv"
    message:
        "Draw the embedding map of {wildcards.model} ({wildcards.dataset}, {wildcards.experiment})"


rule plot_bars:
    input:
        metrics="results/{dataset}/{experiment}/metrics.csv",
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
        study=get_study,
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/bars.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_bars/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_bars/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=get_figure_names("bars"),
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        options=get_figure_options,
        code=get_code("plot_bars", "figures"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_bars.py"


rule plot_parameters:
    input:
        metrics="results/{dataset}/{experiment}/metrics.csv",
        chosen="results/{dataset}/{experiment}/tables/chosen_losses.csv",
        models=get_trained("model.json", get_figure_pairs),
        study=get_study,
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/parameters.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_parameters/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_parameters/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=get_figure_names("parameters"),
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        options=get_figure_options,
        code=get_code("plot_parameters", "figures"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_parameters.py"


rule plot_class_counts:
    input:
        split=get_figure_split,
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/cells_per_stage.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_class_counts/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_class_counts/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=get_figure_names("class_counts"),
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        code=get_code("plot_class_counts", "figures"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_class_counts.py"


rule plot_augmentations:
    input:
        cells="data/{dataset}.h5",
        split=get_main_split,
    output:
        svg=report(
            "results/{dataset}/{experiment}/figures/{figure}.svg",
            caption="../report/augmentations.rst",
            category="{dataset}, {experiment}",
            subcategory="Figures",
            labels={"figure": "{figure}"},
        ),
        png="results/{dataset}/{experiment}/figures/{figure}.png",
    log:
        "logs/plot_augmentations/{dataset}/{experiment}/{figure}.log",
    benchmark:
        "logs/plot_augmentations/{dataset}/{experiment}/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure=get_figure_names("augmentations"),
    conda:
        "../../envs/explain.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(2000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        options=lambda wildcards: {
            "variants": get_augmentations(wildcards),
            "channels": list(get_experiment(wildcards).channels),
            "classes": list(get_experiment(wildcards).scheme.classes),
            "seed": SETTINGS.seed,
        },
        code=get_code("plot_augmentations", "explain"),
    message:
        "Draw {wildcards.figure} of {wildcards.experiment} ({wildcards.dataset})"
    script:
        "../../scripts/plot_augmentations.py"
