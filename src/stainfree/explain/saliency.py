"""Saliency maps: which pixels move the score of a cell's true class.

`gradient` is the map of the CS231n assignment that the studies took theirs from (Simonyan et al., arXiv:1312.6034,
section 3): the absolute gradient of one class score with respect to each pixel, the largest over the channels. As in
that code, the score is the one of the *true* class, also for a cell that the model gets wrong. `smoothgrad` averages
the gradient over noisy copies of the image (Smilkov et al., arXiv:1706.03825) and thereby tells a place the model
reads from the noise of a single gradient.

Figures show each model under its chosen loss, the one best on validation. The shares are also measured under the loss
that the study picked, since the study's claims are about that one.

Networks alone are explained: what has no gradient has no map. All of them explain the same cells, those of parts that
each of them predicted; a heavy network explains the first of them only, those of the figures among them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from captum.attr import NoiseTunnel, Saliency
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode

from stainfree import cells as cells_file
from stainfree import files, predictions, trained
from stainfree.errors import DataError
from stainfree.explain import marked_pairs
from stainfree.explain.masks import cell_mask, nucleus_mask
from stainfree.schemes import slug

logger = logging.getLogger(__name__)

Maps = npt.NDArray[np.float32]

# Cells explained at once at most; smoothgrad holds this many times its samples in memory.
BATCH = 16
# Bytes kept for the gradients of a batch at most, unless one cell alone needs more.
MOST_HELD = 2**30
# Floating-point operations (2 for a multiply-add) of all forward passes of one network: about a minute on one core,
# with the passes back. deepflow on 64 x 64 pixels explains 66 cells with them, resnet41 on 40 x 40 pixels 628.
MOST_OPERATIONS = 4e12
# Width in pixels of the smoothing before peaks are counted: a daughter cell is about 15 pixels across.
PEAK_SMOOTHING = 2.0
SECONDS_BETWEEN_LINES = 5.0
SHARE_COLUMNS = (
    "cell_id", "class", "fold", "seed", "model", "loss", "method", "model_right", "share_inside", "mask_fraction",
    "n_peaks",
)  # fmt: skip


def gradient(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, target: torch.Tensor) -> Maps:
    """Return the vanilla gradient maps of a batch.

    Parameters
    ----------
    module
        Anything differentiable that maps (n, c, h, w) to scores (n, classes); a network in eval mode.
    x
        (n, c, h, w) float, the images as the module takes them.
    target
        (n,) int64, the class whose score is explained: the true one, as in the CS231n assignment.

    Returns
    -------
    ndarray of float32
        (n, h, w), the absolute change of the score per unit of the module's input, largest over the channels.
    """
    x = x.detach().clone().requires_grad_(True)
    # Cells do not share pixels, so the gradient of the sum holds each cell's own gradient.
    scores = module(x).gather(1, target[:, None]).sum()
    (slope,) = torch.autograd.grad(scores, x)
    return np.asarray(slope.abs().amax(dim=1).cpu().numpy(), dtype=np.float32)


def smoothgrad(
    module: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    n_samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Maps:
    """Return SmoothGrad maps of a batch: the gradient averaged over noisy copies (Smilkov et al., eq. 2).

    Parameters
    ----------
    module, x, target
        As for `gradient`.
    n_samples
        Noisy copies per image.
    noise
        Standard deviation of the Gaussian noise as a fraction of the image's own range (largest less smallest value).
    seed
        Seed of the noise. The state of torch's own generator is left as it was.

    Returns
    -------
    ndarray of float32
        (n, h, w), as for `gradient`; the absolute value is taken after the average, so that noise cancels.
    """
    reach = (x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)).clamp_min(1e-12)

    # Captum takes one standard deviation for the batch: images in units of their own range each get what is theirs.
    def scores(fraction: torch.Tensor) -> torch.Tensor:
        return module(fraction * reach.repeat_interleave(len(fraction) // len(reach), dim=0))

    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        slope = NoiseTunnel(Saliency(scores)).attribute(
            x / reach, nt_type="smoothgrad", nt_samples=n_samples, stdevs=noise, target=target, abs=False
        )
    return np.asarray((slope / reach).abs().amax(dim=1).detach().cpu().numpy(), dtype=np.float32)


METHODS: Mapping[str, Callable[..., Maps]] = {"gradient": gradient, "smoothgrad": smoothgrad}


@dataclass(frozen=True)
class Effort:
    """What explaining takes, per image that passes a network."""

    operations: int
    """Floating-point operations of the forward pass, 2 for a multiply-add."""
    held: int
    """Bytes kept for the gradient."""

    @classmethod
    def of(cls, module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Effort:
        """Count it on one image (1, c, h, w), as the module takes it."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(x)
        held: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            # Several steps may keep one and the same memory; weights are kept once, however many images there are.
            if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
                held[tensor.untyped_storage().data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
            scores = module(x.detach().clone().requires_grad_(True))
        del scores  # only now may memory that was counted be taken again
        return cls(operations=int(counter.get_total_flops()), held=sum(held.values()))

    def cells(self, passes: int) -> int:
        """Return how many cells may be explained with so many forward passes each."""
        return int(MOST_OPERATIONS // max(1, self.operations * passes))

    def batch(self, samples: int) -> int:
        """Return how many cells to explain at once with so many samples each."""
        return max(1, min(BATCH, MOST_HELD // max(1, self.held * samples)))


def share_inside(saliency: Maps, mask: npt.NDArray[np.bool_], *, total: float) -> float:
    """Return the share of a map (y, x), NaN where the model does not look, that falls inside the mask (y, x)."""
    return float(np.nansum(saliency[mask]) / total) if total > 0 else float("nan")


def count_peaks(saliency: Maps, mask: npt.NDArray[np.bool_]) -> int:
    """Count the separated places of a map (y, x) inside the mask (y, x) that rise above half of its maximum there.

    The map is smoothed first (Gaussian, 2 pixels), since a gradient jumps from pixel to pixel. Two places are separated
    where the map falls below half of the maximum between them.
    """
    smooth = np.where(mask, ndimage.gaussian_filter(np.nan_to_num(saliency), PEAK_SMOOTHING), 0.0)
    if smooth.max() <= 0:
        return 0
    return int(ndimage.label(smooth > smooth.max() / 2)[1])


@dataclass(frozen=True)
class _Model:
    """One trained (model, loss) pair: where it lies and what it predicted for the test cells."""

    name: str
    loss: str
    folder: Path
    shown: bool
    """Whether this is the model's chosen loss, which figures show."""
    resizes: bool
    """Whether images are stretched to the model's size, so that its frame is the whole source frame."""
    channels: tuple[str, ...]
    predictions: pd.DataFrame
    """Rows of subset ``test``, indexed by cell_id, fold, seed."""

    @property
    def parts(self) -> set[tuple[int, int]]:
        """The parts (fold, seed) that have test predictions."""
        index = self.predictions.index
        return set(zip(index.get_level_values("fold"), index.get_level_values("seed"), strict=True))

    @classmethod
    def read(cls, folder: Path, about: Mapping[str, Any], *, shown: bool) -> _Model:
        """Read the predictions beside a ``model.json`` that says `about`."""
        rows = predictions.read(folder / "predictions.parquet")
        rows = rows[rows["subset"] == "test"].set_index(["cell_id", "fold", "seed"])
        return cls(
            name=about["model"],
            loss=about["loss"],
            folder=folder,
            shown=shown,
            resizes=about.get("fit") == "resize",
            channels=tuple(about["channels"]),
            predictions=rows,
        )


def read_explained(trainings: Sequence[str | os.PathLike[str]], chosen_losses: str | os.PathLike[str]) -> list[_Model]:
    """Read the trainings to explain: of each network the chosen loss, and the one that the study picked.

    Parameters
    ----------
    trainings
        ``model.json`` of all trainings of one variant.
    chosen_losses
        ``tables/chosen_losses.csv``.
    """
    chosen, published = (marked_pairs(chosen_losses, mark) for mark in ("chosen", "published"))
    found = []
    for path in map(Path, trainings):
        about = files.read_json(path)
        pair = (about["variant"], about["model"], about["loss"])
        if pair in chosen | published and about["kind"] == "network":
            found.append(_Model.read(path.parent, about, shown=pair in chosen))
    return found


def pick_cells(
    judged: pd.DataFrame, *, classes: Sequence[str], n_figure: int = 3, max_cells: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Choose the cells to explain.

    Parameters
    ----------
    judged
        Test cells as the judge model predicted them: cell_id, fold, seed, class, predicted. A cell that was in test
        several times counts once, in its first part.
    classes
        Classes that the figures show, each right and wrong.
    n_figure
        Cells per class and outcome in the figures; fewer where there are fewer.
    max_cells
        Cells explained for the shares at most, the figures' among them. They are dealt out evenly over class and
        outcome, so that rare classes are taken whole and common ones fill what is left.
    seed
        Seed of the choice.

    Returns
    -------
    DataFrame
        index, cell_id, class, right, figure, fold, seed. `right` is about the judge. `figure` names the figure that
        shows the cell, such as ``saliency_telophase_wrong``, and is empty for the others. Cells of figures come first,
        in the order of `classes`, those the judge got wrong before those it got right, as in the study.
    """
    cells = judged.sort_values(["fold", "seed", "cell_id"]).drop_duplicates("cell_id")
    cells = cells.assign(right=cells["class"] == cells["predicted"])
    cells = cells.iloc[np.random.default_rng(seed).permutation(len(cells))]
    # The order within each kind; taking all firsts, then all seconds ... deals the cells out evenly.
    cells["turn"] = cells.groupby(["class", "right"]).cumcount()
    drawn = cells["class"].isin(list(classes)) & (cells["turn"] < n_figure)
    outcome = cells["right"].map({True: "right", False: "wrong"})
    cells["figure"] = ("saliency_" + cells["class"].map(slug) + "_" + outcome).where(drawn, "")
    place = cells["class"].map({name: position for position, name in enumerate(classes)})
    figure = cells.assign(place=place)[drawn].sort_values(["place", "right", "turn"])
    rest = cells[~drawn].sort_values(["turn", "class", "right"])
    picked = pd.concat([figure, rest.head(max(0, max_cells - len(figure)))]).reset_index(drop=True)
    picked["index"] = np.arange(len(picked))
    return picked[["index", "cell_id", "class", "right", "figure", "fold", "seed"]]


def _predictions_of(model: _Model, picked: pd.DataFrame) -> pd.DataFrame:
    """Return what a model says of the picked cells, in their order: predicted, probability (of the true class)."""
    keys = pd.MultiIndex.from_frame(picked[["cell_id", "fold", "seed"]])
    missing = picked[~keys.isin(model.predictions.index)]
    if len(missing):
        first = missing.iloc[0]
        raise DataError(
            f"{model.folder / 'predictions.parquet'}: has no test prediction of cell {first['cell_id']} in fold "
            f"{first['fold']}, seed {first['seed']}; train all explained models on one split and the same seeds"
        )
    rows = model.predictions.loc[keys]
    chances = [row[f"p_{row['class']}"] for _, row in rows.iterrows()]
    return pd.DataFrame(
        {"predicted": rows["predicted"].to_numpy(), "probability": np.array(chances, dtype=np.float32)},
        index=picked.index,
    )


def _explain_part(
    part: trained.Trained,
    images: npt.NDArray[Any],
    classes: Sequence[str],
    *,
    method: str,
    options: Mapping[str, Any],
    batch: int,
    device: str,
) -> tuple[Maps, Maps]:
    """Explain cells by the weights of one part: maps in the model's frame (n, h, w) and in the source's (n, y, x)."""
    known = list(part.classes)
    found = []
    for start in range(0, len(images), batch):
        x = part.prepare(images[start : start + batch]).to(device)
        target = torch.tensor([known.index(name) for name in classes[start : start + batch]], device=x.device)
        found.append(METHODS[method](part.module, x, target, **options))
    maps = np.concatenate(found)
    return maps, np.asarray(part.to_source(maps, shape=images.shape[-2:]), dtype=np.float32)


def _explain_model(
    model: _Model,
    picked: pd.DataFrame,
    images: npt.NDArray[Any],
    masks: npt.NDArray[np.bool_],
    *,
    methods: Mapping[str, Mapping[str, Any]],
    device: str,
) -> tuple[dict[str, Maps], pd.DataFrame]:
    """Explain the picked cells by one network, each by the weights for which it was in test.

    `methods` gives each method's options. The maps (cell, y, x) of each method and the shares are of the first cells
    alone where the network is heavy, of the figures' at least.
    """
    parts = {
        (fold, seed): trained.load(model.folder, fold=int(fold), seed=int(seed), device=device)
        for fold, seed in sorted(set(zip(picked["fold"], picked["seed"], strict=True)))
    }
    first = next(iter(parts.values()))
    effort = Effort.of(first.module, first.prepare(images[:1]).to(device))
    samples = [options.get("n_samples", 1) for options in methods.values()]
    n_drawn = int((picked["figure"] != "").sum())
    cells = picked.head(max(n_drawn, effort.cells(sum(samples)), 1))
    cells = cells.assign(model_right=_predictions_of(model, cells)["predicted"] == cells["class"])
    maps = {method: np.empty((len(cells), *masks.shape[1:]), dtype=np.float32) for method in methods}
    shares: list[pd.DataFrame] = []
    for (method, options), n_samples in zip(methods.items(), samples, strict=True):
        rows: list[dict[str, Any]] = []
        for (fold, seed), part in parts.items():
            group = cells[(cells["fold"] == fold) & (cells["seed"] == seed)]
            if group.empty:
                continue
            at = group["index"].to_numpy()
            own, maps[method][at] = _explain_part(
                part,
                images[at],
                group["class"].tolist(),
                method=method,
                options=options,
                batch=effort.batch(n_samples),
                device=device,
            )
            for place, frame, cell in zip(at, own, group.to_dict("records"), strict=True):
                found = maps[method][place]
                seen = masks[place] & np.isfinite(found)
                # What falls on padding was looked at beside the cell; a stretched image has none, but other pixels.
                whole = found[np.isfinite(found)] if model.resizes else frame
                rows.append(
                    {
                        **{name: cell[name] for name in ("index", "cell_id", "class", "fold", "seed", "model_right")},
                        "model": model.name,
                        "loss": model.loss,
                        "method": method,
                        "share_inside": share_inside(found, seen, total=float(whole.sum(dtype=np.float64))),
                        "mask_fraction": float(seen.sum() / whole.size),
                        "n_peaks": count_peaks(found, seen),
                    }
                )
        shares.append(pd.DataFrame(rows).sort_values("index"))
    return maps, pd.concat(shares, ignore_index=True)[list(SHARE_COLUMNS)]


def explain(
    cells: str | os.PathLike[str],
    trainings: Sequence[str | os.PathLike[str]],
    chosen_losses: str | os.PathLike[str],
    *,
    judge: str,
    classes: Sequence[str],
    maps: str | os.PathLike[str],
    picked: str | os.PathLike[str],
    shares: str | os.PathLike[str],
    n_figure: int = 3,
    max_cells: int = 200,
    n_samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Explain test cells by several networks, and measure how much of the saliency lies on the cell.

    Parameters
    ----------
    cells
        The cells file.
    trainings
        ``model.json`` of all trainings of one variant; the weights and predictions lie beside it. Those of models that
        are no networks are left out.
    chosen_losses
        ``tables/chosen_losses.csv``: says which of them are explained (see `read_explained`).
    judge
        Name of the model that says, under its chosen loss, which cells count as right and as wrong (espinosa:
        ``cnn3``).
    classes
        Classes shown in the figures (espinosa: Interphase and Telophase).
    maps
        HDF5 to write, for the cells of the figures: ``/images`` and ``/masks`` (cell, y, x), and
        ``/{method}/{model}`` (cell, y, x) float32 in the source frame, NaN where the model's crop does not reach, of
        the model's chosen loss, which is its attribute ``loss``. Attributes of the file: `outlined`, what the masks
        outline (``cell``, or ``nucleus`` where the models see nothing but a stain); `n_parts`, parts that every network
        predicted, from which alone the cells are, of the `n_parts_of_judge` that the judge predicted.
    picked
        CSV to write, one row per explained cell, as from `pick_cells`, with what each model predicted under its chosen
        loss; `index` is the cell's place in `maps` where `figure` is not empty.
    shares
        CSV to write, one row per cell, method and explained (model, loss): `model_right` says whether that model under
        that loss predicts the cell's class; `share_inside` is the sum of the saliency inside the cell's
        mask over its sum in all that the model sees, padding included; `mask_fraction`, the mask's share of that frame,
        is what a map without any preference would give; `n_peaks` counts the separated peaks inside the mask. A heavy
        network (see `MOST_OPERATIONS`) has fewer rows: the first cells of `picked`.
    n_figure, max_cells, seed
        As for `pick_cells`.
    n_samples, noise
        As for `smoothgrad`.
    device
        Where torch computes.

    Raises
    ------
    DataError
        If the judge is not among the networks, no part was predicted by all of them, no test cell is left, or a
        network did not predict a picked cell.
    """
    explained = read_explained(trainings, chosen_losses)
    shown = {model.name: model for model in explained if model.shown}
    if judge not in shown:
        raise DataError(
            f"saliency: the judge {judge} is not one of the explained models {', '.join(shown)}; mend `judge`"
        )
    judged = shown[judge].predictions.reset_index()
    if judged.empty:
        raise DataError(
            f"{shown[judge].folder / 'predictions.parquet'}: has no test cells, so there is none to explain"
        )
    common = set.intersection(*(model.parts for model in explained))
    if not common:
        raise DataError(
            f"saliency: no part (fold, seed) has test predictions of all of {', '.join(shown)}; train them on one split"
        )
    judged = judged[[part in common for part in zip(judged["fold"], judged["seed"], strict=True)]]
    chosen = pick_cells(judged, classes=classes, n_figure=n_figure, max_cells=max_cells, seed=seed)
    told = {name: _predictions_of(model, chosen).add_suffix(f"_{name}") for name, model in shown.items()}

    images = _read_images(cells, chosen, shown[judge].channels)
    pictures, masks, outlined = _outline(images, shown[judge].channels)
    n_drawn = int((chosen["figure"] != "").sum())
    tables: list[pd.DataFrame] = []
    methods: dict[str, Mapping[str, Any]] = {
        "gradient": {},
        "smoothgrad": {"n_samples": n_samples, "noise": noise, "seed": seed},
    }
    last_line = time.monotonic()
    with files.atomic(maps) as temporary, h5py.File(temporary, "w") as file:
        file["images"] = pictures[:n_drawn]
        file["masks"] = masks[:n_drawn]
        file.attrs.update(outlined=outlined, n_parts=len(common), n_parts_of_judge=len(shown[judge].parts))
        for model in explained:
            found, table = _explain_model(model, chosen, images, masks, methods=methods, device=device)
            tables.append(table)
            for method in methods if model.shown else ():
                laid = file.create_dataset(f"{method}/{model.name}", data=found[method][:n_drawn])
                laid.attrs["loss"] = model.loss
            n_explained = len(table) // len(methods)
            if n_explained < len(chosen):
                logger.info("%s is a heavy network: %d of %d cells explained", model.name, n_explained, len(chosen))
            if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                logger.info("%s, %s: %d cells explained", model.name, model.loss, n_explained)
                last_line = time.monotonic()
    files.write_csv(picked, pd.concat([chosen, *told.values()], axis=1))
    files.write_csv(shares, pd.concat(tables, ignore_index=True))
    pairs = "; ".join(f"{model.name}, {model.loss}" for model in explained)
    logger.info("explained %d cells, %d of them for the figures, by %s", len(chosen), n_drawn, pairs)


def _read_images(cells: str | os.PathLike[str], chosen: pd.DataFrame, channels: Sequence[str]) -> npt.NDArray[Any]:
    """Read the chosen cells in all channels that the models take, (n, c, y, x)."""
    ids = cells_file.read_table(cells)["cell_id"]
    rows = pd.Series(np.arange(len(ids)), index=ids).reindex(chosen["cell_id"])
    if rows.isna().any():
        raise DataError(f"{cells}: has no cell {rows.index[rows.isna()][0]}; train again on the converted cells")
    return cells_file.read_images(cells, channels=channels, rows=rows.to_numpy(dtype=np.int64))


def _outline(images: npt.NDArray[Any], channels: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], str]:
    """Return of images (n, c, y, x) the channel to show (n, y, x), its masks (n, y, x), and what these outline."""
    if "BF" in channels:
        shown = images[:, list(channels).index("BF")]
        return shown, cell_mask(shown), "cell"
    shown = images[:, 0]
    # Scattered light shines from all of the cell, a stain from the nucleus.
    return shown, nucleus_mask(shown), "cell" if channels[0] == "DF" else "nucleus"
