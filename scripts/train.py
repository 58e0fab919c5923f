"""Train one (variant, model, loss): all its folds and seeds, and what they say of the cells."""

from pathlib import Path

from _step import Step

step = Step(snakemake)

from stainfree import training

with step:
    training.train(
        step.input.cells,
        step.input.split,
        Path(step.output.model).parent,
        plan=training.plan_from(step.params.plan),
        work="work/checkpoints",
    )
