"""Train one part (fold, seed) of a (variant, model, loss)."""

from _step import Step

step = Step(snakemake)

from stainfree import deadline, training

with step:
    # Not a parameter of the rule: it changes no result, so it makes no training stale.
    seconds = float(step.config["training"].get("checkpoint_seconds", 60))
    training.make_part(
        step.input.cells,
        step.input.split,
        step.output.part,
        plan=training.plan_from(step.params.plan, checkpoint_seconds=seconds),
        fold=int(step.wildcards.fold),
        seed=int(step.wildcards.seed),
        work="work/checkpoints",
        deadline=deadline.Deadline(deadline.of_job()),
    )
