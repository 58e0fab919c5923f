"""How fast each network is trained here, and what each study cost: `snakemake measures`."""

# Minutes on two cores that an experiment may take on real cells at its default, and those that are aimed at.
BUDGETS = {"espinosa": [5, 2], "billard": [60, 20], "duque": [60, 20]}


rule measure_training:
    input:
        cells="data/{dataset}.h5",
        models=get_measured,
        # Measured last, when all that a study costs is known and nothing else runs.
        reports=expand(
            "results/{{dataset}}/{experiment}/report.html", experiment=SETTINGS.build
        ),
    output:
        training="results/{dataset}/measures/training.csv",
        studies="results/{dataset}/measures/studies.csv",
    log:
        "logs/measure_training/{dataset}/measures.log",
    benchmark:
        "logs/measure_training/{dataset}/measures.benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        cpus_per_task=SETTINGS.threads,
        mem_mb=get_memory(4000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        budgets={name: BUDGETS.get(name) for name in SETTINGS.build},
        starts={
            name: sorted(
                {
                    said.init_from.experiment
                    for said in SETTINGS.experiments[name].options.values()
                    if said.init_from is not None
                }
                - {name}
            )
            for name in SETTINGS.build
        },
        threads=SETTINGS.threads,
        device=SETTINGS.device,
        code=get_code("measure_training", "train"),
    message:
        "Measure how fast networks are trained on {wildcards.dataset}, and what the studies cost"
    script:
        "../../scripts/measure_training.py"


rule measures:
    input:
        f"results/{SETTINGS.dataset}/measures/training.csv",
        f"results/{SETTINGS.dataset}/measures/studies.csv",
