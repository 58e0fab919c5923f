"""Cells per second of batch delivery and of training: ours, and torchvision transforms in a DataLoader.

Both are measured in one process, by turns, so that what else runs on the machine slows both. Nothing is asserted.

    python benchmarks/training_loop.py [--cells N] [--steps N] [--repetitions N] [--threads N]
"""

from __future__ import annotations

# First, since it sets how torch takes memory, for all that is measured here.
from stainfree import training  # isort: skip

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from stainfree import models, provenance
from stainfree.augment import Augmentation, Normalisation, augmented_batch
from stainfree.datasets import simulated

BATCHES_PER_EPOCH = 5
CROP = 64
WORKERS = (0, 1, 2)
# Simulated cells are drawn up to this many and then repeated: what a pixel holds costs no time.
MOST_SIMULATED = 2000
SCALE = {"mean": 2000.0, "std": 300.0}

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def make_cells(n: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]:
    """Return n images (n, 1, 66, 66) of simulated cells and classes (n,) below 5."""
    stages = ["G1", "Prophase", "Metaphase", "Anaphase", "Telophase"]
    classes = np.random.default_rng(0).choice(5, size=min(n, MOST_SIMULATED), p=[0.96, 0.01, 0.01, 0.01, 0.01])
    images, _ = simulated.simulate([stages[k] for k in classes], seed=0)
    rows = np.arange(n) % len(classes)
    return np.ascontiguousarray(images[rows, :1]), classes[rows]


class Cells(Dataset[tuple[Tensor, int]]):
    """Cells in memory, cut, flipped and normalised one by one."""

    def __init__(self, images: npt.NDArray[np.uint16], classes: npt.NDArray[np.int64]) -> None:
        self.images, self.classes = images, classes
        self.transform = v2.Compose(
            [
                v2.RandomCrop(CROP),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ToDtype(torch.float32),
                v2.Normalize([SCALE["mean"]], [SCALE["std"]]),
            ]
        )

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image (1, 64, 64) float32 and its class."""
        return self.transform(torch.from_numpy(self.images[index])), int(self.classes[index])


def plain_cnn3() -> nn.Sequential:
    """Write cnn3 as usual: torch's layers one after the other, on an image of three equal channels."""
    layers: list[nn.Module] = []
    for channels, out_channels, kernel in ((3, 8, 7), (8, 16, 5), (16, 64, 3)):
        convolution = nn.Conv2d(channels, out_channels, kernel, padding="same")
        layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(), nn.MaxPool2d(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.25), nn.Linear(64, 5))


def deliver_ours(images: Tensor, classes: Tensor, *, batch: int, steps: int) -> Batches:
    """Return what gives `steps` batches as `stainfree.training` makes them."""
    normalisation = Normalisation((SCALE["mean"],), (SCALE["std"],))
    generator = torch.Generator().manual_seed(0)
    memory = torch.empty(batch, 1, CROP, CROP)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            chosen = torch.randperm(len(images), generator=generator)[:batch]
            x, rows = augmented_batch(
                images,
                chosen,
                crop=CROP,
                augmentation=Augmentation(flip=True),
                normalisation=normalisation,
                generator=generator,
                memory=memory,
            )
            yield x, classes[rows]

    return batches


def train(batches: Batches, net: nn.Module, *, copies: int) -> Callable[[], None]:
    """Return one round of training over `batches`; the net sees each image in `copies` equal channels."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    loss_function = nn.CrossEntropyLoss()

    def run() -> None:
        for x, target in batches():
            optimizer.zero_grad()
            loss_function(net(x.expand(-1, copies, -1, -1)), target).backward()
            optimizer.step()

    return run


def deliver(batches: Batches) -> Callable[[], None]:
    """Return one round of taking batches and doing nothing with them."""

    def run() -> None:
        for _ in batches():
            pass

    return run


def as_in_training(run: Callable[[], None]) -> Callable[[], None]:
    """Run with the switches that `stainfree.training.train` sets, and take them back."""

    def switched() -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        run()
        torch.use_deterministic_algorithms(False)

    return switched


def measure(contenders: dict[str, Callable[[], None]], *, repetitions: int) -> dict[str, list[float]]:
    """Return the wall seconds of each round; the contenders take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def tell(title: str, seconds: dict[str, list[float]], *, cells: int) -> None:
    """Print cells per second (median, and the slowest and fastest round), and how many times faster ours is."""
    print(f"\n{title}: cells per second")
    rates = {name: [cells / s for s in rounds] for name, rounds in seconds.items()}
    for name, rate in rates.items():
        print(f"  {name:36s} {statistics.median(rate):>9,.0f}   ({min(rate):,.0f} to {max(rate):,.0f})")
    ours, *others = rates
    fastest = max(others, key=lambda name: statistics.median(rates[name]))
    ratio = statistics.median(rates[ours]) / statistics.median(rates[fastest])
    print(f"  ours is {ratio:.1f} times as fast as the fastest other ({fastest})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5541, help="training cells; the 70 %% of 7,916 without it")
    parser.add_argument("--steps", type=int, default=5, help="minibatches a round; 5 are an epoch")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds that count")
    parser.add_argument("--threads", type=int, default=1, help="threads of arithmetic, for both")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch = -(-options.cells // BATCHES_PER_EPOCH)
    cells = batch * options.steps

    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; threads {options.threads}")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "torchvision", "numpy")))
    print(f"{options.cells:,} cells of 66 x 66 uint16, minibatches of {batch:,}, {options.steps} a round")
    images, classes = make_cells(options.cells)
    ours = deliver_ours(torch.from_numpy(images), torch.from_numpy(classes), batch=batch, steps=options.steps)
    dataset = Cells(images, classes)
    loaders = {
        f"DataLoader, {workers} worker{'s' * (workers != 1)}": DataLoader(
            dataset,
            batch_size=batch,
            sampler=RandomSampler(dataset, num_samples=cells),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in WORKERS
    }

    rounds = {"ours": deliver(ours)} | {name: deliver(loader.__iter__) for name, loader in loaders.items()}
    tell("Batches alone", measure(rounds, repetitions=options.repetitions), cells=cells)

    net = training.build_module(models.entry("cnn3"), channels=1, image_size=CROP, n_classes=5)
    rounds = {"ours": as_in_training(train(ours, net, copies=1))}
    for name, loader in loaders.items():
        rounds[f"{name}, plain net"] = train(loader.__iter__, plain_cnn3(), copies=3)
    tell("Training steps of cnn3", measure(rounds, repetitions=options.repetitions), cells=cells)


if __name__ == "__main__":
    main()
