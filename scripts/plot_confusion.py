"""Draw the confusion matrices of one subset: of the chosen losses, or of all."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import confusion

with step:
    confusion.plot(
        step.input.predictions,
        step.input.chosen,
        svg=step.output.svg,
        png=step.output.png,
        **step.params.shows,
    )
