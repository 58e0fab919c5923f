"""Measure how fast each network is trained, and what each study cost."""

from _step import Step

step = Step(snakemake)

from stainfree import speed

with step:
    speed.measure(
        step.input.models,
        cells_path=step.input.cells,
        logs="logs",
        dataset=step.wildcards.dataset,
        budgets=step.params.budgets,
        starts=step.params.starts,
        threads=step.params.threads,
        device=step.params.device,
        training_out=step.output.training,
        studies_out=step.output.studies,
    )
