"""Draw the figure of example cells: stages by channels."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import examples

with step:
    examples.plot(step.input.cells, step.input.split, svg=step.output.svg, png=step.output.png, **step.params.options)
