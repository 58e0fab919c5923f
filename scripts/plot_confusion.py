"""Draw the confusion matrices of an experiment: one figure per entry of `figures`."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import confusion

with step:
    for figure, svg, png in zip(step.params.figures, step.output.svg, step.output.png, strict=True):
        confusion.plot(step.input.predictions, step.input.chosen, pairs=step.params.pairs, svg=svg, png=png, **figure)
