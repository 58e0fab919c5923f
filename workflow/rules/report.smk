"""The report of each experiment, and the front page over all of them."""


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
            category="{dataset}, {experiment}",
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
        mem_mb=get_memory(2000),
        runtime=get_runtime(30),
        attempt=get_attempt,
    params:
        parameters=get_report_parameters,
        failed_copy="work/reports/{dataset}-{experiment}.ipynb",
        code=get_code(
            "report",
            "report",
            ROOT / "notebooks" / "report.ipynb",
            *get_templates(without="index"),
        ),
    message:
        "Write the report of {wildcards.experiment} on {wildcards.dataset}"
    script:
        "../../scripts/report.py"


rule index:
    input:
        # The page leads to all reports that are there; these are the ones to wait for.
        reports=lambda wildcards: [
            f"results/{SETTINGS.dataset}/{name}/report.html"
            for name in get_requested()
        ],
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
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        results=lambda wildcards, output: str(Path(output.html).parent),
        data="data",
        # Where it is not the first variant: another experiment in the config makes the page no other.
        main={
            name: experiment.main
            for name, experiment in SETTINGS.experiments.items()
            if experiment.variants and experiment.main != experiment.variants[0].name
        },
        code=get_code("index", "report", *get_templates(without="report")),
    message:
        "Write the front page"
    script:
        "../../scripts/index.py"


for name, experiment in SETTINGS.experiments.items():
    # An experiment whose variants are all marked full is a target only with `full: true`.
    if experiment.variants:

        rule:
            name:
                name
            input:
                f"results/{SETTINGS.dataset}/{name}/report.html",
                "results/index.html",
