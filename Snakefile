"""stainfree: reads the cell-cycle stage of a cell from its images.

snakemake                 the experiments that config.yaml builds, and results/index.html
snakemake espinosa        one experiment
snakemake --config dataset=jurkat_montage        on real cells
snakemake realism         how far simulated cells are from real ones
snakemake measures        how fast networks are trained here, and what each study cost
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/lookups.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/explain.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/realism.smk"
include: "workflow/rules/measure.smk"


# Quick, and only the run that was asked knows for which reports the front page waits.
localrules:
    index,


rule all:
    default_target: True
    input:
        "results/index.html",
        expand(
            "results/{dataset}/{experiment}/report.html",
            dataset=SETTINGS.dataset,
            experiment=SETTINGS.build,
        ),
