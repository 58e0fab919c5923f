"""The report of each experiment, and the front page over all of them."""

import dataclasses
import json


def get_results(wildcards):
    """All that a report shows."""
    experiment = get_experiment(wildcards)
    files = ["metrics.csv", *(f"tables/{name}.csv" for name in ("class_counts", "balanced_accuracy", "scores"))]
    files += ["claims.csv"] if experiment.study else []
    files += get_figures(experiment)
    return [f"results/{wildcards.dataset}/{wildcards.experiment}/{file}" for file in files]


def get_report_parameters(wildcards):
    """Parameters of the report's notebook."""
    experiment = get_experiment(wildcards)
    return {
        "dataset": wildcards.dataset,
        "experiment": wildcards.experiment,
        "results": "results",
        "data_report": f"data/{wildcards.dataset}.json",
        "study": f"workflow/studies/{experiment.study}.yaml" if experiment.study else "",
        "logs": "logs",
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


rule report:
    input:
        notebook="notebooks/report.ipynb",
        results=get_results,
        data="data/{dataset}.json",
        study=get_study,
    output:
        html=report(
            "results/{dataset}/{experiment}/report.html",
            caption="../report/page.rst",
            category="{dataset}: {experiment}",
            labels={"page": "the whole report"},
        ),
    log:
        "logs/report/{dataset}/{experiment}.log",
    benchmark:
        "logs/report/{dataset}/{experiment}.benchmark.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        parameters=get_report_parameters,
        failed_copy="work/reports/{dataset}-{experiment}.ipynb",
        code=get_code("report", "report"),
    message:
        "Write the report of {wildcards.experiment} on {wildcards.dataset}"
    script:
        "../../scripts/report.py"


rule index:
    input:
        reports=expand("results/{dataset}/{experiment}/report.html", dataset=SETTINGS.dataset, experiment=SETTINGS.build),
    output:
        html="results/index.html",
    log:
        "logs/index/index.log",
    benchmark:
        "logs/index/index.benchmark.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        results="results",
        data="data",
        code=get_code("index", "report"),
    message:
        "Write the front page"
    script:
        "../../scripts/index.py"


for name in SETTINGS.experiments:

    rule:
        name:
            name
        input:
            f"results/{SETTINGS.dataset}/{name}/report.html",
