"""Training: one loop for all image models.

One job trains one (variant, model, loss): its parts, one per (fold, seed), run one after the other on one tensor of
images (`train`). A part leaves its own finished files under `work`, so that a job that is killed goes on with the part
it was in, at that part's last checkpoint; `join` then lays the parts together. On a large cluster each part may be a
job of its own (`make_part`), and the joining another (`join_parts`): the same loop, the same files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Large blocks in huge pages: an epoch frees and takes the same few hundred MB again and again, and a fault per
# 4 KiB page costs a third of the time (measured on cnn3). torch reads this when it first takes memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor, nn

from stainfree import cells, checkpoints, files, images, losses, models, predictions, provenance, splits
from stainfree.augment import Normalisation, augmented_batch, centre_batch
from stainfree.deadline import Deadline
from stainfree.errors import ConfigError, DataError, OutOfTimeError
from stainfree.models._layers import one_by_one
from stainfree.schemes import Scheme

logger = logging.getLogger(__name__)

# Cells per forward pass where no gradient is kept.
_EVALUATION_BATCH = 512
_SECONDS_BETWEEN_LINES = 5.0
# Files of a finished part; the last one says that the others are whole.
_PART_FILES = ("weights.safetensors", "predictions.parquet", "embeddings.parquet", "history.csv", "part.json")


@dataclass(frozen=True)
class Plan:
    """All that decides a training, besides the cells and their split."""

    dataset: str
    experiment: str
    variant: str
    model: models.ModelEntry
    loss: str
    channels: tuple[str, ...]
    scheme: Scheme
    fit: str
    """How images are brought to the size the model takes: ``pad``, ``crop`` or ``resize``."""
    seeds: tuple[int, ...] = (0,)
    subsets: tuple[str, ...] = ("validation", "test")
    """Subsets whose cells get predictions."""
    code: str = ""
    """Digest of the code: a checkpoint of other code is never resumed."""
    threads: int = 1
    """Threads of arithmetic: part of the plan, because the order of sums, and so the last digit, depends on it."""
    device: str = "auto"
    checkpoint_seconds: float = 60.0
    """Time between checkpoints (longer where writing one is slow, see `checkpoints.Pace`); it changes no result."""

    def parts(self, split: pd.DataFrame) -> list[tuple[int, int]]:
        """Return the (fold, seed) of all parts on a split, in the order in which they are joined."""
        return [(fold, seed) for fold in sorted(split["fold"].unique().tolist()) for seed in self.seeds]

    def digest(self, *, cells_sha256: str, split_sha256: str) -> str:
        """Return 16 hexadecimal digits that name this training on these cells."""
        said = dataclasses.asdict(self)
        del said["checkpoint_seconds"]
        # In order: the same classes in another order are other outputs of the network.
        said["scheme"]["members"] = list(self.scheme.members.items())
        # What `auto` means here: a GPU cannot go on where a CPU stopped.
        said["device"] = choose_device(self.device).type
        text = json.dumps([said, cells_sha256, split_sha256], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Origin:
    """What a training rests on, as its results tell it."""

    split: pd.DataFrame
    cells_sha256: str
    split_path: str
    split_sha256: str
    image_shape: tuple[int, int]
    """Height and width in pixels, brought to the model's size."""

    @classmethod
    def read(
        cls, cells_path: str | os.PathLike[str], split_path: str | os.PathLike[str], *, size: int | None
    ) -> Origin:
        """Read it from a cells file and a split of it; `size` is the side that the model takes, None for any."""
        info = cells.read_info(cells_path)
        return cls(
            split=splits.read(split_path),
            cells_sha256=info.content_sha256,
            split_path=str(split_path),
            split_sha256=files.sha256(split_path),
            image_shape=info.image_shape if size is None else (size, size),
        )

    def unfinished(self, work: str | os.PathLike[str], plan: Plan) -> Path:
        """Return the folder below `work` for the unfinished work of a plan on these cells."""
        return Path(work) / plan.digest(cells_sha256=self.cells_sha256, split_sha256=self.split_sha256)


@dataclass(frozen=True)
class Data:
    """The cells of a training, on its device."""

    images: Tensor
    """(cell, channel, y, x) in the stored dtype, brought to the model's size."""
    row: pd.Series
    """cell_id -> position in `images`."""
    origin: Origin

    @property
    def split(self) -> pd.DataFrame:
        """The split, one row per (fold, cell)."""
        return self.origin.split

    def select(self, fold: int, subset: str) -> tuple[pd.DataFrame, Tensor]:
        """Return a fold's cells of one subset, and their positions."""
        split = self.split
        chosen = split[(split["fold"] == fold) & (split["subset"] == subset)]
        return chosen, torch.from_numpy(self.row.loc[chosen["cell_id"]].to_numpy(dtype=np.int64, copy=True))


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is the GPU where there is one."""
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ConfigError("training.device: cuda is asked for, and torch finds no GPU here; set it to auto or cpu")
    return torch.device(name)


def load(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    *,
    channels: Sequence[str],
    size: int | None,
    fit: str,
    device: torch.device,
) -> Data:
    """Read the cells of a split as one tensor."""
    origin = Origin.read(cells_path, split_path, size=size)
    table = cells.read_table(cells_path)
    position = pd.Series(np.arange(len(table)), index=table["cell_id"])
    used = origin.split["cell_id"].drop_duplicates()
    unknown = ~used.isin(position.index)
    if unknown.any():
        raise DataError(f"{split_path}: cell {used[unknown].iloc[0]} is not in {cells_path}; draw the split again")
    rows = np.sort(position.loc[used].to_numpy())
    stored = cells.read_images(cells_path, channels=channels, rows=None if len(rows) == len(table) else rows)
    tensor = torch.from_numpy(np.ascontiguousarray(images.fit(stored, size=size, way=fit)))
    return Data(
        images=tensor.to(device),
        row=pd.Series(np.arange(len(rows)), index=table["cell_id"].to_numpy()[rows]),
        origin=origin,
    )


def build_module(entry: models.ModelEntry, *, channels: int, image_size: int, n_classes: int) -> nn.Module:
    """Make a family's module with an entry's parameters."""
    family = models.module(entry.family)
    module = family.Model(channels=channels, image_size=image_size, n_classes=n_classes, **entry.parameters)
    # Measured: convolutions on few channels run a third faster on a CPU with channels last.
    return module.to(memory_format=torch.channels_last)


def build_loss(name: str, counts: npt.NDArray[np.int64]) -> tuple[nn.Module, npt.NDArray[np.float32] | None]:
    """Make a loss for classes of `counts` training cells; also return its class weights where it has any."""
    module = losses.module(name)
    if hasattr(module, "build"):
        return module.build(counts), None
    weights = module.class_weights(counts)
    return nn.CrossEntropyLoss(weight=torch.from_numpy(weights)), weights


def build_optimizer(module: nn.Module, recipe: models.Recipe) -> torch.optim.Optimizer:
    """Make the optimiser of a recipe."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            module.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.Adam(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def balanced_accuracy(predicted: Tensor, target: Tensor, n_classes: int) -> float:
    """Return the mean recall over the classes present; `predicted` and `target` are (n,) int64."""
    n = torch.bincount(target, minlength=n_classes)
    right = torch.bincount(target[predicted == target], minlength=n_classes)
    present = n > 0
    return float((right[present] / n[present]).mean())


def evaluate(
    module: nn.Module, data: Data, rows: Tensor, *, crop: int | None, normalisation: Normalisation, embed: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return logits (n, class), and embeddings (n, d) where asked, of the cells at `rows`, without gradients."""
    module.eval()
    logits, embeddings = [], []
    with torch.inference_mode():
        for chunk in rows.split(_EVALUATION_BATCH):
            x = centre_batch(data.images, chunk, crop=crop, normalisation=normalisation)
            x = x.contiguous(memory_format=torch.channels_last)
            logits.append(module(x))
            if embed:
                embeddings.append(module.embed(x))  # type: ignore[operator]
    module.train()
    return torch.cat(logits), torch.cat(embeddings) if embed else None


def train_part(data: Data, plan: Plan, *, fold: int, seed: int, folder: Path, deadline: Deadline | None = None) -> None:
    """Train one part, from its last checkpoint where there is one, and write its files into `folder`.

    The files are ``weights.safetensors``, ``predictions.parquet``, ``history.csv``, ``embeddings.parquet`` where the
    family has an embedding, and, last, ``part.json``: a part that has it is finished.

    Raises
    ------
    OutOfTimeError
        If `deadline` is near: a checkpoint was written. At least one step was made, however near it was at the start.
    """
    deadline = deadline or Deadline()
    family, recipe, classes = models.family(plan.model.family), plan.model.recipe, plan.scheme.classes
    device, crop = data.images.device, family.crop
    name = f"{plan.model.name}/{plan.loss} fold {fold} seed {seed}"
    began = time.perf_counter()

    # --- what is trained, and on what
    train_cells, train_rows = data.select(fold, "train")
    validation_cells, validation_rows = data.select(fold, "validation")
    index = {label: k for k, label in enumerate(classes)}
    target_of = torch.full((len(data.images),), -1)
    target_of[train_rows] = torch.tensor([index[c] for c in train_cells["class"]])
    target_of[validation_rows] = torch.tensor([index[c] for c in validation_cells["class"]], dtype=torch.int64)
    counts = torch.bincount(target_of[train_rows], minlength=len(classes))
    normalisation = Normalisation.of(data.images, train_rows)
    initial, shuffling, dropping = np.random.SeedSequence([seed, fold]).generate_state(3).tolist()
    torch.manual_seed(initial)
    input_size = crop or data.images.shape[2]
    module = build_module(plan.model, channels=len(plan.channels), image_size=input_size, n_classes=len(classes))
    module.to(device)
    loss_function, class_weights = build_loss(plan.loss, counts.numpy())
    loss_function.to(device)
    optimizer = build_optimizer(module, recipe)
    torch.manual_seed(dropping)
    generator = torch.Generator().manual_seed(shuffling)
    batches = recipe.batches_per_epoch or -(-len(train_rows) // int(recipe.batch_size or 1))

    # --- where it stands: at the beginning, or at a checkpoint
    step, best_step, best, order = 0, 0, -1.0, train_rows
    best_weights = {key: value.clone() for key, value in module.state_dict().items()}
    history: list[dict[str, float]] = []
    checkpoint = folder / "checkpoint.safetensors"
    if (found := checkpoints.load(checkpoint)) is not None:
        tensors, values = found
        module.load_state_dict(checkpoints.with_prefix("model", tensors))
        best_weights = {k: t.to(device) for k, t in checkpoints.with_prefix("best", tensors).items()}
        checkpoints.restore_optimizer(optimizer, tensors)
        generator.set_state(tensors["generator"])
        torch.set_rng_state(tensors["dropout"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(tensors["dropout_cuda"])
        order = tensors["order"]
        step, best_step, best, history = (values[key] for key in ("step", "best_step", "best", "history"))
        logger.info("%s: going on at step %s", name, step)
    first, said, pace = step, time.perf_counter(), checkpoints.Pace(plan.checkpoint_seconds)
    deadline.begin()
    memory = torch.empty((-(-len(train_rows) // batches), len(plan.channels), input_size, input_size), device=device)

    # --- the loop
    while step < recipe.epochs * batches and not (recipe.patience and step - best_step >= recipe.patience):
        if step % batches == 0:
            order = train_rows[torch.randperm(len(train_rows), generator=generator)]
        batch, rows = augmented_batch(
            data.images,
            order.tensor_split(batches)[step % batches],
            crop=crop,
            flip=recipe.flip,
            normalisation=normalisation,
            generator=generator,
            memory=memory,
        )
        target = target_of[rows].to(device)
        logits = module(batch.contiguous(memory_format=torch.channels_last))
        loss = loss_function(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1

        validation_logits, _ = evaluate(module, data, validation_rows, crop=crop, normalisation=normalisation)
        validation_target = target_of[validation_rows].to(device)
        score = balanced_accuracy(validation_logits.argmax(1), validation_target, len(classes))
        if score > best:
            best, best_step = score, step
            best_weights = {key: value.clone() for key, value in module.state_dict().items()}
        history.append(
            {
                "step": step,
                "epoch": (step - 1) // batches + 1,
                "train_loss": loss.item(),
                "train_balanced_accuracy": balanced_accuracy(logits.argmax(1), target, len(classes)),
                "validation_loss": loss_function(validation_logits, validation_target).item(),
                "validation_balanced_accuracy": score,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": time.perf_counter() - began,
            }
        )

        now = time.perf_counter()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            # Whoever is taken over must be gone before the other one ends: workflows remove what a failed job made.
            files.check_guard()
            logger.info(
                "%s: step %s of at most %s, loss %.3f, balanced accuracy on validation %.3f (best %.3f at step %s)",
                name, step, recipe.epochs * batches, loss.item(), score, best, best_step,
            )  # fmt: skip
        leave = deadline.is_near()
        if leave or pace.is_due():
            tensors = {f"model.{key}": value for key, value in module.state_dict().items()}
            tensors |= {f"best.{key}": value for key, value in best_weights.items()}
            tensors |= checkpoints.optimizer_tensors(optimizer)
            tensors |= {"generator": generator.get_state(), "dropout": torch.get_rng_state(), "order": order}
            if device.type == "cuda":
                tensors["dropout_cuda"] = torch.cuda.get_rng_state()
            values = {"step": step, "best_step": best_step, "best": best, "history": history}
            pace.save(checkpoint, tensors, values)
        if leave:
            hint = "; no more than 1 step fitted into this attempt: give it more time" if step - first == 1 else ""
            raise OutOfTimeError(
                f"{name}: the job's time ends: stopped at step {step} of at most {recipe.epochs * batches}, saved; "
                f"the next attempt goes on there{hint}"
            )

    # --- the best step's weights speak
    module.load_state_dict(best_weights)
    with files.atomic(folder / "weights.safetensors") as temporary:
        temporary.write_bytes(save({key: value.cpu().contiguous() for key, value in best_weights.items()}))
    _predict(module, data, plan, fold=fold, seed=seed, normalisation=normalisation, folder=folder)
    table = pd.DataFrame(history).assign(fold=fold, seed=seed)
    files.write_csv(folder / "history.csv", table[["fold", "seed", *history[0]]])
    stopped_early = step < recipe.epochs * batches
    files.write_json(
        folder / "part.json",
        {
            "fold": fold,
            "seed": seed,
            "weights": f"weights/fold{fold}-seed{seed}.safetensors",
            "sha256": files.sha256(folder / "weights.safetensors"),
            "normalisation": dataclasses.asdict(normalisation),
            "class_counts": dict(zip(classes, counts.tolist(), strict=True)),
            "class_weights": None if class_weights is None else dict(zip(classes, class_weights.tolist(), strict=True)),
            "best_step": best_step,
            "last_step": step,
            "stopped_early": stopped_early,
            "checkpoints": {"written": pace.n_written, "bytes": pace.n_bytes, "seconds": pace.spent},
            "seconds": time.perf_counter() - began,
            "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        },
    )
    logger.info(
        "%s: done, best step %s of %s%s, balanced accuracy on validation %.3f",
        name, best_step, step, " (stopped early)" if stopped_early else "", best,
    )  # fmt: skip


def _predict(
    module: nn.Module, data: Data, plan: Plan, *, fold: int, seed: int, normalisation: Normalisation, folder: Path
) -> None:
    """Write the part's predictions of the plan's subsets, and the embeddings of its test cells."""
    family, classes = models.family(plan.model.family), plan.scheme.classes
    tables = []
    for subset in plan.subsets:
        chosen, rows = data.select(fold, subset)
        if chosen.empty:
            continue
        logits, embeddings = evaluate(
            module,
            data,
            rows,
            crop=family.crop,
            normalisation=normalisation,
            embed=family.embedding and subset == "test",
        )
        probabilities = logits.softmax(dim=1).cpu().numpy()
        tables.append(predictions.table(chosen, probabilities, classes=classes, seed=seed))
        if embeddings is not None:
            vectors = pd.DataFrame(embeddings.cpu().numpy(), columns=[f"e{k}" for k in range(embeddings.shape[1])])
            about = chosen[["cell_id", "fold", "subset", "class"]].reset_index(drop=True).assign(seed=seed)
            files.write_parquet(folder / "embeddings.parquet", pd.concat([about, vectors], axis=1))
    predictions.write(folder / "predictions.parquet", pd.concat(tables, ignore_index=True))


def describe_layers(module: nn.Module, *, channels: int, image_size: int) -> list[dict[str, Any]]:
    """List the layers of a module in the order in which an image passes them.

    Returns
    -------
    list of dict
        name, kind (the class in ``torch.nn``), output_shape (without the batch axis), n_parameters.
    """
    layers: list[dict[str, Any]] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        kind = next(base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("torch.nn."))
        layers.append(
            {
                "name": name,
                "kind": kind,
                "output_shape": list(output.shape[1:]),
                "n_parameters": sum(p.numel() for p in layer.parameters()),
            }
        )

    handles = [
        layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output))
        for name, layer in module.named_modules()
        if not list(layer.children())
    ]
    module.eval()
    with torch.inference_mode(), one_by_one():
        module(torch.zeros(1, channels, image_size, image_size))
    for handle in handles:
        handle.remove()
    return layers


def join(parts: Sequence[Path], out: Path, plan: Plan, origin: Origin) -> None:
    """Lay finished parts together as the files of the contract (predictions, embeddings, history, weights, model).

    Raises
    ------
    DataError
        If the parts are not those of the plan on its split.
    """
    family = models.family(plan.model.family)
    told: list[Mapping[str, Any]] = [files.read_json(part / "part.json") for part in parts]
    there, wanted = [(about["fold"], about["seed"]) for about in told], plan.parts(origin.split)
    if there != wanted:
        raise DataError(
            f"{origin.split_path}: its parts (fold, seed) are {wanted}, and those to join are {there}; "
            "delete it and draw the split again"
        )
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    for part, about in zip(parts, told, strict=True):
        with files.atomic(out / about["weights"]) as temporary:
            shutil.copyfile(part / "weights.safetensors", temporary)
    predictions.write(
        out / "predictions.parquet", pd.concat([pd.read_parquet(p / "predictions.parquet") for p in parts])
    )
    vectors = [pd.read_parquet(part / "embeddings.parquet") for part in parts] if family.embedding else []
    nothing = pd.DataFrame(columns=["cell_id", "fold", "subset", "class", "seed"])
    files.write_parquet(out / "embeddings.parquet", pd.concat(vectors) if vectors else nothing)
    files.write_csv(out / "history.csv", pd.concat([pd.read_csv(p / "history.csv") for p in parts]))
    image_size = family.crop or origin.image_shape[0]
    module = build_module(
        plan.model, channels=len(plan.channels), image_size=image_size, n_classes=len(plan.scheme.classes)
    )
    files.write_json(
        out / "model.json",
        {
            "dataset": plan.dataset,
            "experiment": plan.experiment,
            "variant": plan.variant,
            "model": plan.model.name,
            "family": plan.model.family,
            "params": dict(plan.model.parameters),
            "loss": plan.loss,
            "n_parameters": sum(p.numel() for p in module.parameters()),
            "channels": list(plan.channels),
            "image_size": list(origin.image_shape),
            "crop": family.crop,
            "fit": plan.fit,
            "scheme": {"name": plan.scheme.name, "classes": {k: list(v) for k, v in plan.scheme.members.items()}},
            "recipe": dataclasses.asdict(plan.model.recipe),
            "layers": describe_layers(module, channels=len(plan.channels), image_size=image_size),
            "parts": told,
            "cells_sha256": origin.cells_sha256,
            "split": {"path": origin.split_path, "sha256": origin.split_sha256},
            "provenance": provenance.collect(["torch", "numpy", "h5py", "pandas", "safetensors"]),
        },
    )


def _prepare(cells_path: str | os.PathLike[str], split_path: str | os.PathLike[str], plan: Plan) -> Data:
    """Set how torch works under a plan, and read the plan's cells."""
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else torch fills fresh memory that is written over at once: a third of the time of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return load(
        cells_path,
        split_path,
        channels=plan.channels,
        size=models.family(plan.model.family).image_size,
        fit=plan.fit,
        device=choose_device(plan.device),
    )


def train(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    work: str | os.PathLike[str],
    deadline: Deadline | None = None,
) -> None:
    """Train every part of a plan and join them in the folder `out`.

    Parameters
    ----------
    cells_path, split_path
        The cells, and which of them train.
    out
        Folder for ``predictions.parquet``, ``embeddings.parquet``, ``history.csv``, ``model.json``, ``weights/``.
    plan
        What is trained, and how.
    work
        Folder for unfinished work, safe to delete: a later call goes on from what stands there.
    deadline
        When this process must have ended; it changes no result.

    Raises
    ------
    TakenOverError
        If another process started on the same training meanwhile: it goes on, this one writes no more.
    OutOfTimeError
        If the deadline is near: a later call goes on. Every call makes at least one step.
    """
    data = _prepare(cells_path, split_path, plan)
    unfinished = data.origin.unfinished(work, plan)
    deadline, late = deadline or Deadline(), False
    parts: list[Path] = []
    with checkpoints.owned(unfinished) as check_owner:
        wanted = plan.parts(data.split)
        for fold, seed in wanted:
            part = unfinished / f"fold{fold}-seed{seed}"
            if not (part / "part.json").is_file():
                if late:
                    raise OutOfTimeError(
                        f"{plan.model.name}/{plan.loss}: the job's time ends: {len(parts)} of {len(wanted)} parts are "
                        "done and saved; the next attempt goes on there"
                    )
                with checkpoints.owned(part):
                    train_part(data, plan, fold=fold, seed=seed, folder=part, deadline=deadline)
                late = deadline.is_near()
            parts.append(part)
        join(parts, Path(out), plan, data.origin)
        check_owner()
        shutil.rmtree(unfinished)


def make_part(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    fold: int,
    seed: int,
    work: str | os.PathLike[str],
    deadline: Deadline | None = None,
) -> None:
    """Train one part of a plan and put its finished files into the folder `out`, for `join_parts`.

    Parameters and errors are those of `train`. What is unfinished is shared with it: each goes on where the other was.

    Raises
    ------
    DataError
        If the split has no such fold.
    """
    data = _prepare(cells_path, split_path, plan)
    if (fold, seed) not in plan.parts(data.split):
        raise DataError(f"{split_path}: has no fold {fold}; delete it and draw the split again")
    part = data.origin.unfinished(work, plan) / f"fold{fold}-seed{seed}"
    with checkpoints.owned(part):
        if not (part / "part.json").is_file():
            train_part(data, plan, fold=fold, seed=seed, folder=part, deadline=deadline)
        for name in _PART_FILES:
            if (part / name).is_file():
                with files.atomic(Path(out) / name) as temporary:
                    shutil.copyfile(part / name, temporary)


def join_parts(
    cells_path: str | os.PathLike[str],
    split_path: str | os.PathLike[str],
    parts: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    plan: Plan,
    work: str | os.PathLike[str],
) -> None:
    """Lay the folders `parts` that `make_part` made together in the folder `out`, as `train` does.

    Raises
    ------
    DataError
        If the parts are not those of the plan on its split.
    """
    origin = Origin.read(cells_path, split_path, size=models.family(plan.model.family).image_size)
    join([Path(part) for part in parts], Path(out), plan, origin)
    shutil.rmtree(origin.unfinished(work, plan), ignore_errors=True)


def plan_from(told: Mapping[str, Any], **changes: Any) -> Plan:
    """Build a `Plan` from plain values (as a workflow passes them): the keys are its fields; `changes` win."""
    plain: dict[str, Any] = {**told, **changes}
    entry = dict(plain.pop("model"))
    recipe = models.Recipe(**entry.pop("recipe"))
    plain |= {"model": models.ModelEntry(**entry, recipe=recipe), "scheme": Scheme(**plain["scheme"])}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    return Plan(**values)
