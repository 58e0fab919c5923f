"""Train the reference network for one question about real and simulated cells."""

from pathlib import Path

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import deadline, realism, training

with step:
    training.train(
        step.input.cells,
        step.input.split,
        Path(step.output.folder),
        plan=training.plan_from(realism.plan(step.wildcards.task, step.params.training)),
        work="work/checkpoints",
        deadline=deadline.Deadline(deadline.of_job()),
    )
