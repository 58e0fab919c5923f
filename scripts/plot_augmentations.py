"""Draw training cells as they are, and under each augmentation of the experiment."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import augmentations

with step:
    augmentations.plot(
        step.input.cells, step.input.split, svg=step.output.svg, png=step.output.png, **step.params.options
    )
