"""Draw real beside simulated cells, their integrated PI, and what the reference network makes of them."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree.figures import realism

with step:
    realism.plot_panel(step.input.cells, svg=step.output.panel_svg, png=step.output.panel, seed=step.params.seed)
    realism.plot_integrated_pi(
        step.input.integrated_pi, svg=step.output.integrated_pi_svg, png=step.output.integrated_pi
    )
    realism.plot_recalls(step.input.scores, svg=step.output.recalls_svg, png=step.output.recalls)
