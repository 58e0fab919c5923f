"""Hold the claims of the study against our numbers."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import claims

with step:
    claims.run(
        step.input.study,
        models=step.input.models,
        main=step.params.main,
        cells_path=step.input.cells,
        shares=step.input.shares or None,
        out=step.output.csv,
    )
