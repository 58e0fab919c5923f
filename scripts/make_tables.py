"""Lay out the tables of the study: cells per class, balanced accuracy (also by source), all scores."""

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import tables

with step:
    tables.run(
        scored=step.input.metrics,
        chosen=step.input.chosen,
        split_paths=dict(zip(step.params.split_variants, step.input.splits, strict=True)),
        classes=step.params.classes,
        predicted=step.input.predictions,
        pairs=step.params.pairs,
        study=step.input.study or None,
        class_counts_out=step.output.class_counts,
        balanced_accuracy_out=step.output.balanced_accuracy,
        by_source_out=step.output.by_source,
        scores_out=step.output.scores,
    )
