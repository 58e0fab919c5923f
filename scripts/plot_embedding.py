"""Draw a model's embedding map, as a picture and as an interactive page."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import embedding

with step:
    embedding.plot(
        step.input.coordinates,
        step.input.chosen,
        pairs=step.params.pairs,
        classes=step.params.classes,
        svg=step.output.svg,
        png=step.output.png,
        html_page=step.output.html,
    )
