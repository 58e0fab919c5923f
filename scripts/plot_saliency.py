"""Draw the saliency maps of the cells of one class that the judge got right, or wrong."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import saliency

with step:
    saliency.plot(
        step.input.maps,
        step.input.cells,
        step.input.chosen,
        pairs=step.params.pairs,
        judge=step.params.judge,
        svg=step.output.svg,
        png=step.output.png,
        **step.params.shows,
    )
