"""Pick equal numbers of real and simulated cells, and draw the splits of all questions asked of them."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import realism

with step:
    realism.sample(
        step.input.real,
        step.input.simulated,
        out=step.output.cells,
        split_paths=dict(zip(step.params.tasks, step.output.splits, strict=True)),
        **step.params.options,
    )
