"""Train one (variant, model, loss): all its folds and seeds, and what they say of the cells."""

from dataclasses import replace
from pathlib import Path

from _step import Step

step = Step(snakemake)

from stainfree import training

with step:
    plan = training.plan_from(step.params.plan)
    # Not a parameter of the rule: it changes no result, so it makes no training stale.
    seconds = float(step.config["training"].get("checkpoint_seconds", plan.checkpoint_seconds))
    training.train(
        step.input.cells,
        step.input.split,
        Path(step.output.model).parent,
        plan=replace(plan, checkpoint_seconds=seconds),
        work="work/checkpoints",
    )
