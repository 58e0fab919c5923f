"""Train one (variant, model, loss): all its folds and seeds, and what they say of the cells."""

from pathlib import Path

from _step import Step

step = Step(snakemake)

from stainfree import deadline, training

with step:
    # Not a parameter of the rule: it changes no result, so it makes no training stale.
    seconds = float(step.config["training"].get("checkpoint_seconds", 60))
    training.train(
        step.input.cells,
        step.input.split,
        Path(step.output.model).parent,
        plan=training.plan_from(step.params.plan, checkpoint_seconds=seconds),
        work="work/checkpoints",
        deadline=deadline.Deadline(deadline.of_job()),
    )
