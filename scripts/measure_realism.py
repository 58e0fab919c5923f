"""Measure how far simulated cells are from real ones: scores, AUCs, integrated PI."""

from pathlib import Path

from _step import Step

step = Step(snakemake)  # opens the log before anything heavy is imported

from stainfree import realism

with step:
    realism.measure(
        step.input.cells,
        {
            task: Path(folder) / "predictions.parquet"
            for task, folder in zip(step.params.tasks, step.input.trained, strict=True)
        },
        out=Path(step.output.scores).parent,
        seed=step.params.seed,
    )
