"""Lay the parts of a training together: the files that one job would have made."""

from pathlib import Path

from _step import Step

step = Step(snakemake)

from stainfree import training

with step:
    training.join_parts(
        step.input.cells,
        step.input.split,
        step.input.parts,
        Path(step.output.model).parent,
        plan=training.plan_from(step.params.plan),
        work="work/checkpoints",
    )
