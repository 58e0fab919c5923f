"""Lay out one table that the study has and others have not, our numbers beside the published ones."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import study_tables

with step:
    study_tables.run(
        step.wildcards.table,
        options=step.params.options,
        scored=step.input.metrics,
        split_paths=dict(zip(step.params.split_variants, step.input.splits, strict=True)),
        models=step.input.models,
        classes=step.params.classes,
        main=step.params.main,
        study=step.input.study or None,
        scored_before=step.input.metrics_before or None,
        split_before=step.input.split_before or None,
        start=step.params.start or None,
        out=step.output.csv,
    )
