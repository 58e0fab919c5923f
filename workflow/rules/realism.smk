"""How far simulated cells are from real ones, measured and shown: `snakemake realism`."""

# The questions of stainfree.realism.TASKS, each a training of one small reference network.
REALISM_TASKS = [
    *(
        f"{scheme}_{side}"
        for scheme in ("five", "seven")
        for side in ("real", "simulated", "transfer")
    ),
    *(f"apart_{channel}" for channel in ("BF", "PI", "DF")),
]
REALISM_TABLES = ["scores", "checks", "told_apart", "pi_measures", "integrated_pi"]
REALISM_FIGURES = ["panel", "integrated_pi", "recalls"]


rule sample_realism:
    input:
        real="data/jurkat_montage.h5",
        simulated="data/simulated.h5",
    output:
        cells="work/realism/cells.h5",
        splits=expand("work/realism/{task}.parquet", task=REALISM_TASKS),
    log:
        "logs/sample_realism/all.log",
    benchmark:
        "logs/sample_realism/all.benchmark.tsv"
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        tasks=REALISM_TASKS,
        # The G1 cells of Experiment_2 come without any other stage, so they differ by more than stage.
        options={"sources": ["Experiment_1"], "most": 300, "seed": SETTINGS.seed},
        code=get_code("sample_realism", "data"),
    message:
        "Pick equal numbers of real (jurkat_montage) and simulated cells"
    script:
        "../../scripts/sample_realism.py"


rule train_realism:
    input:
        cells="work/realism/cells.h5",
        split="work/realism/{task}.parquet",
    output:
        folder=directory("work/realism/{task}"),
    log:
        "logs/train_realism/{task}.log",
    benchmark:
        "logs/train_realism/{task}.benchmark.tsv"
    wildcard_constraints:
        task="|".join(REALISM_TASKS),
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        cpus_per_task=SETTINGS.threads,
        mem_mb=get_memory(2000),
        runtime=get_runtime(60),
        attempt=get_attempt,
    params:
        training=lambda wildcards: {
            "model": dataclasses.asdict(models.entry("small_cnn")),
            "loss": "inv_weighted",
            "threads": SETTINGS.threads,
            "device": SETTINGS.device,
            "code": get_digest(
                "train_realism",
                "train",
                models.family_path("small_cnn"),
                losses.loss_path("inv_weighted"),
            ),
        },
    message:
        "Train the reference network for {wildcards.task}"
    script:
        "../../scripts/train_realism.py"


rule measure_realism:
    input:
        cells="work/realism/cells.h5",
        trained=expand("work/realism/{task}", task=REALISM_TASKS),
    output:
        **{name: f"results/realism/{name}.csv" for name in REALISM_TABLES},
    log:
        "logs/measure_realism/all.log",
    benchmark:
        "logs/measure_realism/all.benchmark.tsv"
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        tasks=REALISM_TASKS,
        seed=SETTINGS.seed,
        code=get_code("measure_realism", "evaluate"),
    message:
        "Measure how far simulated cells are from real ones"
    script:
        "../../scripts/measure_realism.py"


rule plot_realism:
    input:
        cells="work/realism/cells.h5",
        scores="results/realism/scores.csv",
        integrated_pi="results/realism/integrated_pi.csv",
    output:
        **{name: f"results/realism/{name}.png" for name in REALISM_FIGURES},
        **{f"{name}_svg": f"results/realism/{name}.svg" for name in REALISM_FIGURES},
    log:
        "logs/plot_realism/all.log",
    benchmark:
        "logs/plot_realism/all.benchmark.tsv"
    conda:
        "../../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=get_memory(1000),
        runtime=get_runtime(10),
        attempt=get_attempt,
    params:
        seed=SETTINGS.seed,
        code=get_code("plot_realism", "figures"),
    message:
        "Draw real beside simulated cells"
    script:
        "../../scripts/plot_realism.py"


rule realism:
    input:
        expand("results/realism/{name}.csv", name=REALISM_TABLES),
        expand("results/realism/{name}.svg", name=REALISM_FIGURES),
