"""Draw how many cells of each stage there are."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import class_counts

with step:
    class_counts.plot(step.input.split, svg=step.output.svg, png=step.output.png)
