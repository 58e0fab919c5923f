"""The one loop that trains every network, readable from top to bottom."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from stainfree import checkpoints, files, losses, models, parts, transfer
from stainfree.augment import Augmentation, Normalisation, augmented_batch, centre_batch, views
from stainfree.deadline import Deadline
from stainfree.errors import ConfigError, DivergedError, OutOfTimeError
from stainfree.networks import build_module, shift_of
from stainfree.plans import Data, Plan

logger = logging.getLogger(__name__)

# Cells per forward pass where no gradient is kept.
_EVALUATION_BATCH = 512
_SECONDS_BETWEEN_LINES = 5.0
# Share of the steps of one_cycle in which the learning rate rises, and where it starts as a share of the highest.
_WARM_UP, _START = 0.2, 0.1


def build_loss(
    name: str, counts: npt.NDArray[np.int64], *, label_smoothing: float = 0.0
) -> tuple[nn.Module, npt.NDArray[np.float32] | None]:
    """Make a loss for classes of `counts` training cells; also return its class weights where it has any."""
    module = losses.module(name)
    if hasattr(module, "build"):
        if "label_smoothing" in inspect.signature(module.build).parameters:
            return module.build(counts, label_smoothing=label_smoothing), None
        if label_smoothing:
            raise ConfigError(f"recipe: loss {name} smooths no labels; set `label_smoothing` to 0, or use another loss")
        return module.build(counts), None
    weights = module.class_weights(counts)
    return nn.CrossEntropyLoss(weight=torch.from_numpy(weights), label_smoothing=label_smoothing), weights


def build_optimizer(module: nn.Module, recipe: models.Recipe) -> torch.optim.Optimizer:
    """Make the optimiser of a recipe."""
    # One kernel for all weights: at small batches a step is as long as its optimiser.
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), momentum=recipe.momentum, **options)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), **options)
    # Biases and the weights of norms have no size to hold down.
    decayed = {"params": [p for p in module.parameters() if p.ndim > 1]}
    others: dict[str, Any] = {"params": [p for p in module.parameters() if p.ndim <= 1], "weight_decay": 0.0}
    return torch.optim.AdamW([decayed, others], betas=(0.9, 0.99), **options)


def learning_rate(recipe: models.Recipe, step: int, *, batches: int) -> float:
    """Return the learning rate of a step (from 0), of `batches` steps per epoch."""
    done = step / (recipe.epochs * batches)
    if recipe.schedule == "step":
        return recipe.learning_rate * recipe.decay ** sum(step // batches + 1 >= e for e in recipe.decay_epochs)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
    if recipe.schedule == "one_cycle":
        if done < _WARM_UP:
            return recipe.learning_rate * (_START + (1 - _START) * done / _WARM_UP)
        return recipe.learning_rate * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2
    return recipe.learning_rate


def cells_per_class(counts: Tensor, balance: str) -> Tensor | None:
    """Return how many cells of each class (class,) an epoch holds; None where it holds every training cell once."""
    if balance == "none":
        return None
    if balance == "sqrt":
        roots = counts.double().sqrt()
        return (counts.sum() * roots / roots.sum()).round().long().clamp(min=1)
    share = int(counts.max()) if balance == "upsample" else -(-int(counts.sum()) // len(counts))
    return torch.full_like(counts, share)


def draw_epoch(rows: Tensor, target: Tensor, wanted: Tensor | None, *, generator: torch.Generator) -> Tensor:
    """Draw the cells of one epoch, in random order.

    Parameters
    ----------
    rows, target
        (n,) positions of the training cells, and their class numbers.
    wanted
        (class,) cells of each class; each cell of a class comes once more, or not, than any other of it. None: every
        cell once.
    generator
        A CPU generator.
    """
    if wanted is not None:
        drawn = []
        for number, n in enumerate(wanted.tolist()):
            own = rows[target == number]
            rest = own[torch.randperm(len(own), generator=generator)[: n % len(own)]]
            drawn += [own.repeat(n // len(own)), rest]
        rows = torch.cat(drawn)
    return rows[torch.randperm(len(rows), generator=generator)]


def balanced_accuracy(predicted: Tensor, target: Tensor, n_classes: int) -> float:
    """Return the mean recall over the classes present; `predicted` and `target` are (n,) int64."""
    n = torch.bincount(target, minlength=n_classes)
    right = torch.bincount(target[predicted == target], minlength=n_classes)
    present = n > 0
    return float((right[present] / n[present]).mean())


def evaluate(
    module: nn.Module,
    data: Data,
    rows: Tensor,
    *,
    crop: int | None,
    normalisation: Normalisation,
    n_views: int = 1,
    shift: Tensor | None = None,
    embed: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return log-probabilities (n, class), and embeddings (n, d) where asked, of the cells at `rows`.

    Of several views, the probabilities are averaged; then `shift` (class,) is added to their logarithms. The embedding
    is that of the cell as it is.
    """
    module.eval()
    answers, embeddings = [], []
    with torch.inference_mode():
        for chunk in rows.split(_EVALUATION_BATCH // n_views):
            x = centre_batch(data.images, chunk, crop=crop, normalisation=normalisation)
            seen = (x if n_views == 1 else views(x).flatten(0, 1)).contiguous(memory_format=torch.channels_last)
            logarithms = module(seen).log_softmax(dim=1)
            answers.append(logarithms.view(n_views, len(chunk), -1).logsumexp(dim=0) - math.log(n_views))
            if embed:
                embeddings.append(module.embed(seen[: len(chunk)]))  # type: ignore[operator]
    module.train()
    told = torch.cat(answers)
    if shift is not None:
        told = (told + shift).log_softmax(dim=1)
    return told, torch.cat(embeddings) if embed else None


def _blend(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, keep: float, step: int) -> None:
    """Move the running average of weights, in place, by a step; it keeps less while it is young."""
    keep = min(keep, step / (step + 9))
    for name, value in average.items():
        if value.is_floating_point():
            value.lerp_(weights[name], 1 - keep)
        else:
            value.copy_(weights[name])


def train_part(data: Data, plan: Plan, *, fold: int, seed: int, folder: Path, deadline: Deadline | None = None) -> None:
    """Train one part, from its last checkpoint where there is one, and write its files into `folder`.

    The files are those of `parts.FILES`; a part that has ``part.json`` is finished.

    Raises
    ------
    OutOfTimeError
        If `deadline` is near: a checkpoint was written. At least one step was made, however near it was at the start.
    DivergedError
        If the loss is no number any more.
    """
    deadline = deadline or Deadline()
    entry, classes = plan.model_of(fold), plan.scheme.classes
    family, recipe, crop = models.family(entry.family), entry.recipe, entry.crop
    assert recipe is not None
    augmentation = Augmentation(**{name: getattr(recipe, name) for name in models.AUGMENTATION})
    device = data.images.device
    name = f"{entry.name}/{plan.loss} fold {fold} seed {seed}"
    began = time.perf_counter()

    # --- what is trained, and on what
    _, train_rows = data.select(fold, "train")
    _, validation_rows = data.select(fold, "validation")
    target_of = parts.targets(data, plan, fold)
    counts = torch.bincount(target_of[train_rows], minlength=len(classes))
    wanted = cells_per_class(counts, recipe.balance)
    n_cells = len(train_rows) if wanted is None else int(wanted.sum())
    batches = recipe.batches_per_epoch or -(-n_cells // int(recipe.batch_size or 1))
    normalisation = Normalisation.of(data.images, train_rows)
    initial, shuffling, dropping = np.random.SeedSequence([seed, fold]).generate_state(3).tolist()
    torch.manual_seed(initial)
    input_size = crop or data.images.shape[2]
    module = build_module(entry, channels=len(plan.channels), image_size=input_size, n_classes=len(classes))
    if plan.init_from is not None:
        transfer.start(module, plan, data, fold=fold, seed=seed)
    module.to(device)
    scored = copy.deepcopy(module) if recipe.average else module  # what is validated, kept, and answers in the end
    shown = counts if wanted is None else wanted
    loss_function, class_weights = build_loss(plan.loss, shown.numpy(), label_smoothing=recipe.label_smoothing)
    loss_function.to(device)
    shift = shift_of(counts.numpy(), recipe.shift)
    shift = None if shift is None else shift.to(device)
    optimizer = build_optimizer(module, recipe)
    torch.manual_seed(dropping)
    generator = torch.Generator().manual_seed(shuffling)

    # --- where it stands: at the beginning, or at a checkpoint
    step, best_step, stale, best, order = 0, 0, 0, -math.inf, train_rows
    seconds, history = 0.0, []
    best_weights = {key: value.clone() for key, value in scored.state_dict().items()}
    since: dict[str, list[Tensor]] = {"loss": [], "predicted": [], "target": []}  # the last validation
    checkpoint = folder / "checkpoint.safetensors"
    if (found := checkpoints.load(checkpoint)) is not None:
        tensors, values = found
        module.load_state_dict(checkpoints.with_prefix("model", tensors))
        scored.load_state_dict(checkpoints.with_prefix("scored" if recipe.average else "model", tensors))
        best_weights = {k: t.to(device) for k, t in checkpoints.with_prefix("best", tensors).items()}
        since |= {key: [tensor.to(device)] for key, tensor in checkpoints.with_prefix("since", tensors).items()}
        checkpoints.restore_optimizer(optimizer, tensors)
        generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["dropout"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["dropout_cuda"])
        order = tensors["order"]
        step, best_step, stale, history = (values[key] for key in ("step", "best_step", "stale", "history"))
        best, seconds = -math.inf if values["best"] is None else values["best"], values["seconds"]
        logger.info("%s: going on at step %s", name, step)
    first, said, pace = step, time.perf_counter(), checkpoints.Pace(plan.checkpoint_seconds)
    deadline.begin()
    memory = torch.empty((-(-n_cells // batches), len(plan.channels), input_size, input_size), device=device)

    # --- the loop
    while step < recipe.epochs * batches and not (recipe.patience and stale >= recipe.patience):
        started = time.perf_counter()
        if step % batches == 0:
            order = draw_epoch(train_rows, target_of[train_rows], wanted, generator=generator)
        batch, rows = augmented_batch(
            data.images,
            _cut(order, step % batches, batches),
            crop=crop,
            augmentation=augmentation,
            normalisation=normalisation,
            generator=generator,
            memory=memory,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, batches=batches)
        target = target_of[rows].to(device)
        logits = module(batch.contiguous(memory_format=torch.channels_last))
        loss = loss_function(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if recipe.average:
            _blend(scored.state_dict(), module.state_dict(), keep=recipe.average, step=step)
        for key, value in (("loss", loss[None]), ("predicted", logits.argmax(1)), ("target", target)):
            since[key].append(value.detach())
        seconds += time.perf_counter() - started

        if recipe.validate == "step" or step % batches == 0:
            # Of one view, whatever the recipe's number: with eight, this would take as long as a third of the epoch.
            answers, _ = evaluate(scored, data, validation_rows, crop=crop, normalisation=normalisation, shift=shift)
            truth = target_of[validation_rows].to(device)
            seen = {key: torch.cat(values) for key, values in since.items()}
            since = {key: [] for key in since}
            row = {
                "step": step,
                "epoch": (step - 1) // batches + 1,
                "train_loss": seen["loss"].mean().item(),
                "train_balanced_accuracy": balanced_accuracy(seen["predicted"], seen["target"], len(classes)),
                "validation_loss": loss_function(answers, truth).item(),
                "validation_balanced_accuracy": balanced_accuracy(answers.argmax(1), truth, len(classes)),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": time.perf_counter() - began,
            }
            if not math.isfinite(row["train_loss"]):
                raise DivergedError(
                    f"{name}: the loss is no number any more at step {step}; lower `learning_rate` in the recipe"
                )
            history.append(row)
            scores = {"loss": -row["validation_loss"], "last": step}
            score = scores.get(recipe.monitor, row["validation_balanced_accuracy"])
            stale += 1
            if score > best:
                best, best_step, stale = score, step, 0
                best_weights = {key: value.clone() for key, value in scored.state_dict().items()}

        now = time.perf_counter()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            # Whoever is taken over must be gone before the other one ends: workflows remove what a failed job made.
            files.check_guard()
            logger.info(
                "%s: step %s of at most %s, loss %.3f, %s",
                name, step, recipe.epochs * batches, loss.item(), _standing(history, best_step),
            )  # fmt: skip
        leave = deadline.is_near()
        if leave or pace.is_due():
            tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
            tensors |= {f"best.{key}": value for key, value in best_weights.items()}
            tensors |= {f"since.{key}": torch.cat(values) for key, values in since.items() if values}
            if recipe.average:
                tensors |= {f"scored.{key}": value for key, value in scored.state_dict().items()}
            tensors |= checkpoints.optimizer_tensors(optimizer)
            tensors |= {"generator": generator.get_state(), "dropout": torch.get_rng_state(), "order": order}
            if device.type == "cuda":
                tensors["dropout_cuda"] = torch.cuda.get_rng_state()
            values = {"step": step, "best_step": best_step, "stale": stale, "history": history, "seconds": seconds}
            pace.save(checkpoint, tensors, {**values, "best": best if math.isfinite(best) else None})
        if leave:
            hint = "; no more than 1 step fitted into this attempt: give it more time" if step - first == 1 else ""
            raise OutOfTimeError(
                f"{name}: the job's time ends: stopped at step {step} of at most {recipe.epochs * batches}, saved; "
                f"the next attempt goes on there{hint}"
            )

    # --- the best weights speak
    scored.load_state_dict(best_weights)
    with files.atomic(folder / "weights.safetensors") as temporary:
        temporary.write_bytes(save({key: value.cpu().contiguous() for key, value in best_weights.items()}))

    def answer(rows: Tensor, is_test: bool) -> parts.Answers:
        answers, embeddings = evaluate(
            scored,
            data,
            rows,
            crop=crop,
            normalisation=normalisation,
            n_views=recipe.views,
            shift=shift,
            embed=family.embedding and is_test,
        )
        return answers.exp().cpu().numpy(), None if embeddings is None else embeddings.cpu().numpy()

    parts.write_answers(data, plan, fold=fold, seed=seed, folder=folder, answer=answer)
    parts.write_history(folder, history, fold=fold, seed=seed)
    stopped_early = step < recipe.epochs * batches
    parts.write_done(
        folder,
        plan,
        fold=fold,
        seed=seed,
        normalisation=dataclasses.asdict(normalisation),
        class_counts=dict(zip(classes, counts.tolist(), strict=True)),
        class_weights=None if class_weights is None else dict(zip(classes, class_weights.tolist(), strict=True)),
        best_step=best_step,
        last_step=step,
        stopped_early=stopped_early,
        checkpoints={"written": pace.n_written, "bytes": pace.n_bytes, "seconds": pace.spent},
        # Time of the training steps alone, and the cells that they saw, for cells per second.
        steps={"seconds": seconds, "cells": round(step / batches * n_cells)},
        seconds=time.perf_counter() - began,
        device=str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
    )
    logger.info(
        "%s: done, best step %s of %s%s, %s",
        name, best_step, step, " (stopped early)" if stopped_early else "", _standing(history, best_step),
    )  # fmt: skip


def _cut(order: Tensor, number: int, batches: int) -> Tensor:
    """Return one of the `batches` minibatches that an epoch is cut into, even to one cell."""
    size, larger = divmod(len(order), batches)
    start = number * size + min(number, larger)
    return order[start : start + size + (number < larger)]


def _standing(history: list[dict[str, float]], best_step: int) -> str:
    """Say how validation stands."""
    if not history:
        return "not yet validated"
    best = next((row for row in history if row["step"] == best_step), history[-1])
    return (
        f"balanced accuracy on validation {history[-1]['validation_balanced_accuracy']:.3f} "
        f"({best['validation_balanced_accuracy']:.3f} at the best step, {best_step})"
    )
