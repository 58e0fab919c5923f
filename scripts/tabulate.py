"""Lay out the tables of the study: cells per class, balanced accuracy, all scores."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import tables

with step:
    tables.run(
        scored=step.input.metrics,
        chosen=step.input.chosen,
        split_paths=dict(zip(step.params.split_variants, step.input.splits, strict=True)),
        classes=step.params.classes,
        study=step.input.get("study"),
        class_counts_out=step.output.class_counts,
        balanced_accuracy_out=step.output.balanced_accuracy,
        scores_out=step.output.scores,
    )
