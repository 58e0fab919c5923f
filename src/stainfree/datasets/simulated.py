"""Simulated cells: a teaching and testing aid, never evidence.

The cells drawn here let the whole workflow run anywhere, offline and at once. They look like Jurkat cells in an imaging
flow cytometer, but every difference between their stages was put in by hand: a score reached on them says that the code
works, and nothing about cells. How far they are from real cells is measured by `stainfree.realism` (``snakemake
realism``); their looks were adjusted by hand while those measures were watched, on the very cells they are compared
with, so that a good measure is no more than a good likeness.

What is drawn, and after what:

- *Bodies.* One lobe, or two parted along the axis of division; sizes, outlines and their spread follow the cells of
  Experiment_1 of the public montages (github.com/minh-doan/MLCP; Blasi et al. 2016, doi:10.1038/ncomms10256). Now and
  then a fragment clings to the edge. The cells of Telophase stand upright, as all 27 real ones do.
- *BF.* Cells and granules are weak phase objects seen out of focus in partially coherent light: in the spectrum, the
  phase is multiplied by sin(pi * wavelength * z * q**2) under an envelope that narrows with the defocus z (the
  weak-object transfer function, Streibl 1985, doi:10.1364/JOSAA.2.000121, its envelope taken as Gaussian). This makes
  the bright body, brighter rim and dark ring of these cells, and their dependence on focus.
- *PI.* Chromatin after the stage: a nucleus of 2n (G1), 2n to 4n (S, uniformly) or 4n, mottled and then condensed in
  Prophase, one plate in Metaphase, two in Anaphase, two in two daughter cells in Telophase. Its sum over the image
  is drawn from the quantiles of the real cells of the stage (`_INTEGRATED_PI`) and rises with the DNA content in S.
- *DF.* Speckle where the granules of BF are, and rays from the edge towards the laser. From it the instrument's
  software has subtracted the spill of PI, which leaves a black disc; a share of DF is missing from PI in the same way.

Each cell has a random generator of its own, made from the seed and its number, so that its pixels do not depend on how
many cells are drawn at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, special

from stainfree.cells import CHUNK_CELLS
from stainfree.datasets import Batch, Dataset, Drops
from stainfree.errors import ConfigError, DataError
from stainfree.schemes import INTERPHASE, STAGES

Floats = npt.NDArray[np.float32]

CHANNELS = ("BF", "PI", "DF")
"""Channels of a simulated cell, in the order of axis 1."""

PUBLISHED_COUNTS: Mapping[str, int] = {
    "G1": 14_333,
    "S": 8_616,
    "G2": 8_601,
    "Prophase": 606,
    "Metaphase": 68,
    "Anaphase": 15,
    "Telophase": 27,
}
"""Cells per stage of the published data set (BBBC048)."""

DEFAULT_CELLS = 7_916
SMALLEST = 70
"""Fewer cells would be too little Interphase beside `RAREST` of each other stage."""
RAREST = 6
"""Cells of each stage at least, so that five folds, or training, validation and test, can share them."""

_BIT_DEPTH = 12
_CHUNK = 32  # cells drawn at a time: few enough that their fields stay in the cache
_FRAME = 66  # smallest frame to draw in: wide enough that nothing wraps around in the spectrum
_SMALLEST_IMAGE = 40  # two daughter cells still fit
_BACKGROUND = {"BF": 677.0, "PI": 42.0, "DF": 27.0}
_READ_NOISE = {"BF": 5.5, "PI": 2.2, "DF": 1.8}
_SHOT_GAIN = {"BF": 0.0, "PI": 0.18, "DF": 0.6}  # variance per count above the background
_SPILL = 0.075  # of PI into DF, which the instrument's software subtracts


@dataclass(frozen=True)
class _Look:
    """How the cells of a stage look; lengths in pixels of the montages, (from, to) over the course of the stage."""

    dna: tuple[float, float]
    """DNA content in units of n."""
    radius: tuple[float, float]
    """Of the body, or of each lobe of it."""
    parting: tuple[float, float] = (0.0, 0.0)
    """Half the distance between the two lobes."""
    plates: tuple[float, float] = (0.0, 0.0)
    """Half the distance between the two sets of chromatids."""
    nucleus: tuple[float, float] = (0.97, 0.97)
    """Radius of the chromatin across the axis, as a share of the lobe's."""
    thickness: tuple[float, float] = (1.0, 1.0)
    """Radius of the chromatin along the axis, as a share of that across: 1 for a nucleus, less for a plate."""
    mottling: float = 0.24
    """Standard deviation of the logarithm of the chromatin's density."""
    granules: float = 1.0
    """Contrast of the granules in BF."""
    focus: float = 1.0
    """Defocus of PI, relative: a stage that was told by its chromatin was told on cells in focus."""


_LOOKS: Mapping[str, _Look] = {
    "G1": _Look(dna=(2, 2), radius=(8.9, 9.9), granules=1.15),
    "S": _Look(dna=(2, 4), radius=(9.8, 10.7), granules=1.05),
    "G2": _Look(dna=(4, 4), radius=(10.6, 11.6)),
    "Prophase": _Look(
        dna=(4, 4),
        radius=(11.5, 12.3),
        nucleus=(0.98, 0.94),
        thickness=(0.98, 0.88),
        mottling=0.4,
        granules=0.9,
        focus=0.85,
    ),
    "Metaphase": _Look(
        dna=(4, 4),
        radius=(11.4, 11.4),
        parting=(0.2, 1.4),
        nucleus=(1.05, 1.0),
        thickness=(0.58, 0.42),
        mottling=0.4,
        granules=1.2,
        focus=0.7,
    ),
    "Anaphase": _Look(
        dna=(4, 4),
        radius=(10.5, 9.5),
        parting=(3.0, 5.2),
        plates=(5.2, 6.6),
        nucleus=(0.92, 0.92),
        thickness=(0.45, 0.42),
        mottling=0.34,
        granules=0.9,
        focus=0.6,
    ),
    "Telophase": _Look(
        dna=(4, 4),
        radius=(9.4, 9.0),
        parting=(5.4, 9.4),
        plates=(6.8, 9.7),
        nucleus=(0.98, 0.98),
        thickness=(0.5, 0.55),
        mottling=0.32,
        focus=0.6,
    ),
}

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_INTEGRATED_PI: Mapping[str, tuple[float, ...]] = {
    "G1": (62, 83, 111, 128, 139, 149, 158, 161, 163),
    "S": (160, 161, 162, 171, 183, 199, 213, 215, 218),
    "G2": (214, 216, 219, 232, 251, 275, 327, 376, 400),
    "Prophase": (219, 236, 253, 283, 305, 329, 377, 485, 627),
    "Metaphase": (231, 248, 263, 296, 318, 348, 390, 455, 532),
    "Anaphase": (258, 259, 264, 279, 303, 311, 330, 345, 349),
    "Telophase": (246, 250, 260, 269, 283, 320, 348, 383, 395),
}
"""Integrated PI in thousand counts at the `_QUANTILES` of the cells of Experiment_1 of the montages.

G1, S and G2 end where the next begins: those cells were labelled by gates on this very number.
"""


def stage_counts(n_cells: int | Literal["default", "published"] = "default") -> dict[str, int]:
    """Return how many cells of each stage a simulated data set has.

    Parameters
    ----------
    n_cells
        ``default``: 7,916. ``published``: the 32,266 of the published counts. Or any number from `SMALLEST` on: up to
        7,916, the published mitotic cells in proportion to it, but at least `RAREST` of each stage; from there to
        32,266, all 716 of them and more of Interphase; beyond, all stages in the published proportion.

    Returns
    -------
    dict
        Stage -> number of cells, in the order of the stages. The sum is `n_cells`.

    Raises
    ------
    ConfigError
        If `n_cells` is none of these.

    Examples
    --------
    >>> stage_counts()
    {'G1': 3271, 'S': 1966, 'G2': 1963, 'Prophase': 606, 'Metaphase': 68, 'Anaphase': 15, 'Telophase': 27}
    """
    published = sum(PUBLISHED_COUNTS.values())
    named = {"default": DEFAULT_CELLS, "published": published}
    total = named.get(n_cells) if isinstance(n_cells, str) else n_cells
    if not isinstance(total, int) or isinstance(total, bool) or total < SMALLEST:
        raise ConfigError(f"n_cells: cannot be {n_cells!r}; give `default`, `published` or a number from {SMALLEST} on")
    if total > published:
        return _apportion(total, PUBLISHED_COUNTS)
    share = min(1.0, total / DEFAULT_CELLS)
    mitotic = {s: max(RAREST, round(share * n)) for s, n in PUBLISHED_COUNTS.items() if s not in INTERPHASE}
    interphase = {s: PUBLISHED_COUNTS[s] for s in INTERPHASE}
    return _apportion(total - sum(mitotic.values()), interphase) | mitotic


def _apportion(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Share out whole cells in proportion, by the largest remainder."""
    exact = {stage: total * weight / sum(weights.values()) for stage, weight in weights.items()}
    counts = {stage: int(value) for stage, value in exact.items()}
    by_remainder = sorted(exact, key=lambda stage: counts[stage] - exact[stage])
    for stage in by_remainder[: total - sum(counts.values())]:
        counts[stage] += 1
    return counts


def read(dataset: Dataset, raw: Path, drops: Drops | None = None) -> Iterator[Batch]:
    """Yield the cells of a simulated data set, stages mixed at random.

    Parameters
    ----------
    dataset
        Its options are ``n_cells`` (see `stage_counts`), ``image_size`` (pixels, 66) and ``seed`` (0); its channels are
        any of `CHANNELS`.
    raw, drops
        Not needed: nothing is read, and nothing left out.

    Yields
    ------
    Batch
        Images (cell, channel, y, x) of uint16; ids ``sim-000001`` and so on; ``dna_content`` in units of n.

    Raises
    ------
    ConfigError
        If an option or channel is not one that can be simulated.
    """
    if unknown := [channel for channel in dataset.channels if channel not in CHANNELS]:
        raise ConfigError(
            f"data set {dataset.name}: cannot simulate channel {', '.join(unknown)}; choose among {', '.join(CHANNELS)}"
        )
    channels = [CHANNELS.index(channel) for channel in dataset.channels]
    seed = _whole_number(dataset, "seed", default=0)
    image_size = _whole_number(dataset, "image_size", default=_FRAME)
    stages = _mix(stage_counts(dataset.options.get("n_cells", "default")), seed=seed)
    for first in range(0, len(stages), CHUNK_CELLS):
        chunk = stages[first : first + CHUNK_CELLS]
        images, dna_content = simulate(chunk, seed=seed, image_size=image_size, first=first)
        yield Batch(
            images=images[:, channels],
            stage=chunk,
            cell_id=[f"sim-{first + i + 1:06d}" for i in range(len(chunk))],
            source=["simulated"] * len(chunk),
            dna_content=dna_content,
        )


def _whole_number(dataset: Dataset, key: str, *, default: int) -> int:
    """Return an option that must be 0 or a positive whole number."""
    value = dataset.options.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"data set {dataset.name}: {key} is {value!r}; give a whole number, 0 or more")
    return value


def _mix(counts: Mapping[str, int], *, seed: int) -> list[str]:
    """Return the stage of each cell, in random order."""
    stages = np.repeat(list(counts), list(counts.values()))
    return [str(stage) for stage in _generator(seed, 0).permutation(stages)]


def simulate(
    stages: Sequence[str], *, seed: int, image_size: int = _FRAME, first: int = 0
) -> tuple[npt.NDArray[np.uint16], Floats]:
    """Draw cells.

    Parameters
    ----------
    stages
        The stage of each cell.
    seed
        Of the data set: with the number of a cell it settles all of its pixels.
    image_size
        Height and width in pixels, at least 40. The scale does not change with it, only how much is seen around a cell.
    first
        Number of the first of these cells within the data set: ``simulate(all, seed=0)[0][100:]`` and
        ``simulate(all[100:], seed=0, first=100)[0]`` are the same cells.

    Returns
    -------
    images : ndarray of uint16
        (cell, 3, y, x), channels BF, PI, DF, camera counts of 12 bits.
    dna_content : ndarray of float32
        (cell,) the true DNA content in units of n, from 2 to 4.

    Raises
    ------
    DataError
        If a stage is not one of `stainfree.schemes.STAGES`.
    ConfigError
        If `image_size` is too small for a dividing cell.
    """
    if unknown := sorted(set(stages) - set(STAGES)):
        raise DataError(f"cannot simulate stage {', '.join(unknown)}; choose among {', '.join(STAGES)}")
    if image_size < _SMALLEST_IMAGE:
        raise ConfigError(f"image_size: {image_size} is too small for a dividing cell; give {_SMALLEST_IMAGE} or more")
    images = np.empty((len(stages), len(CHANNELS), image_size, image_size), dtype=np.uint16)
    dna_content = np.empty(len(stages), dtype=np.float32)
    frame = max(image_size, _FRAME)
    edge = (frame - image_size) // 2
    for start in range(0, len(stages), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        cells = _draw(stages[chunk], seed=seed, first=first + start, frame=frame)
        drawn = np.stack([_brightfield(cells), *_stain_and_scatter(cells)], axis=1)
        images[chunk] = drawn[:, :, edge : edge + image_size, edge : edge + image_size]
        dna_content[chunk] = cells.dna_content
    return images, dna_content


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one cell (key 1, number), or of the order of the cells (key 0)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


@dataclass(frozen=True)
class _Cells:
    """A chunk of cells before they are seen; arrays are float32, one value or field a cell."""

    dna_content: Floats
    """(cell,) in units of n."""
    integrated_pi: Floats
    """(cell, 1, 1) sum of PI above the background, in counts."""
    defocus: Floats
    """(cell, 1, 1) distance of the cell from the focal plane in µm."""
    radius: Floats
    """(cell, 1, 1) of a lobe in pixels."""
    height: Floats
    """(cell, y, x) thickness of the body as a share of the radius; 0 outside."""
    chromatin: Floats
    """(cell, y, x) density of the chromatin; its sum is 1."""
    leftward: Floats
    """(cell, y, x) distance from the middle of the cell to the left, towards the laser, in radii."""
    bumps: Floats
    """(cell, y, x) thickness of fragments that cling to the cell, and of lumps in it, as a share of the radius."""
    gathering: Floats
    """(cell, y, x) density of the granules, relative: they gather in parts of a cell."""
    blur: Floats
    """(cell, 1, 1) standard deviation in pixels of the blur of PI."""
    contrast: Floats
    """(cell, 1, 1) refractive index of the body over that of the medium, relative."""
    granularity: Floats
    """(cell, 1, 1) contrast of the granules."""
    unevenness: Floats
    """(cell, 1, 1) contrast of what is larger than granules."""
    crowding: Floats
    """(cell, 1, 1) share of the granules that the densest chromatin pushes aside."""
    scattering: Floats
    """(cell, 1, 1) brightness of the speckle."""
    rim: Floats
    """(cell, 1, 1) brightness of the light that the cell's edge throws towards the laser."""
    spill: Floats
    """(cell, 1, 1) share of PI that is subtracted from DF."""
    pi_background: Floats
    """(cell, 1, 1) in counts."""
    fields: Floats
    """(field, cell, y, x) standard normal: 2 of granules, 1 of speckle, 3 of camera noise."""


def _draw(stages: Sequence[str], *, seed: int, first: int, frame: int) -> _Cells:
    """Draw what the cells are: geometry, chromatin, contrasts and all random fields."""
    scalars, fields = _random(len(stages), seed=seed, first=first, frame=frame)
    progress, content, turn, tilt = scalars[:4]
    # Bounded, so that no cell leaves its image.
    deviates = iter(np.clip(special.ndtri(scalars[5:].clip(1e-4, 1 - 1e-4)), -2.5, 2.5).astype(np.float32))
    look = {name: _over_stage(stages, name, progress) for name in _Look.__dataclass_fields__ if name != "dna"}
    out_of_focus = scalars[4] ** 1.6

    # Doublets travel with the flow, upright in the image; what is round turns as it likes.
    upright = np.array([stage == "Telophase" for stage in stages])[:, None, None]
    angle = np.where(upright, np.pi / 2 + 0.12 * next(deviates), np.pi * turn).astype(np.float32)
    pixel = np.arange(frame, dtype=np.float32) - (frame - 1) / 2 - 0.4
    x, y = pixel[None, None, :] - 0.65 * next(deviates), pixel[None, :, None] - 0.8 * next(deviates)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    radius = look["radius"] * (1.02 + 0.055 * next(deviates))
    stretch = 1 + 0.05 * next(deviates)
    # Now and then a fragment of another cell clings to the edge.
    fragment = np.clip(next(deviates) - 1.0, 0, None)
    where = np.pi * 2 * turn + 3 * next(deviates)
    from_fragment = (x - 1.25 * radius * np.cos(where)) ** 2 + (y - 1.25 * radius * np.sin(where)) ** 2
    wobble = _wobble(along, across, [next(deviates) for _ in range(4)])
    clumps = _smooth(fields[0], 1.5)
    from_middle = _from_lobes(along, across, look["parting"] * stretch) / (radius * wobble) ** 2
    height = np.sqrt(np.clip(1 + 0.025 * clumps - from_middle, 0, None))
    lumps = np.clip(next(deviates) - 1.0, 0, None) * np.clip(_smooth(fields[2], 2.5), 0, 1.5)

    # A plate seen at a slant is broader than one seen edge-on; the plates of a spindle bend round its poles.
    broad = look["thickness"] + (1 - look["thickness"]) * 0.6 * tilt**4
    width = look["nucleus"] * radius * (1 + 0.05 * next(deviates)) * wobble
    along_spindle = along - 0.08 * radius * next(deviates)
    across_spindle = across - 0.08 * radius * next(deviates)
    bend = np.where(look["plates"] > 0, 0.015 + 0.015 * next(deviates), 0).astype(np.float32)
    from_plate = np.abs(along_spindle) - look["plates"] * stretch + bend * across_spindle**2
    distance2 = ((from_plate / broad) ** 2 + across_spindle**2) / width**2 * np.exp(0.4 * look["mottling"] * clumps)
    chromatin = np.clip(1 - distance2**2, 0, None) * np.exp(-look["mottling"] * clumps)

    return _Cells(
        dna_content=_over_stage(stages, "dna", content)[:, 0, 0],
        integrated_pi=_integrated_pi(stages, content),
        defocus=2.8 + 8.0 * out_of_focus,
        radius=radius,
        height=height,
        chromatin=chromatin / chromatin.sum(axis=(1, 2), keepdims=True),
        leftward=-(x + 0.5 * next(deviates) * y) / radius,
        bumps=0.3 * np.sqrt(fragment) * np.exp(-from_fragment / 4) + 0.25 * height * lumps,
        gathering=np.exp(0.6 * np.clip(_smooth(fields[1], 3.0), None, 1.5)),
        blur=np.sqrt(1.2 + (0.4 * (1.3 + 6.5 * look["focus"] * out_of_focus) * np.exp(0.3 * next(deviates))) ** 2),
        contrast=1 + 0.12 * next(deviates),
        granularity=look["granules"] * np.exp(0.3 * next(deviates)),
        unevenness=np.exp(0.3 * next(deviates)),
        crowding=0.1 + 1.5 * look["mottling"],
        scattering=np.exp(0.55 * next(deviates)),
        rim=np.exp(0.8 * next(deviates)),
        spill=_SPILL * (1 + 0.3 * next(deviates)),
        pi_background=2.0 * next(deviates) - 0.8,
        fields=fields[1:],
    )


def _integrated_pi(stages: Sequence[str], content: Floats) -> Floats:
    """Return (cell, 1, 1) sums of PI, as far through the distribution of its stage as `content` (from 0 to 1) says.

    A little more than the table says: that was measured on images of 40 x 40, outside of which some of the haze falls.
    """
    sums = [
        1030 * np.interp(share, _QUANTILES, _INTEGRATED_PI[stage])
        for stage, share in zip(stages, content.ravel(), strict=True)
    ]
    return np.array(sums, dtype=np.float32)[:, None, None]


def _random(n_cells: int, *, seed: int, first: int, frame: int) -> tuple[Floats, Floats]:
    """Return (scalar, cell, 1, 1) uniform and (field, cell, y, x) standard normal numbers, each cell's own."""
    scalars = np.empty((30, n_cells, 1, 1), dtype=np.float32)
    fields = np.empty((7, n_cells, frame, frame), dtype=np.float32)
    for i in range(n_cells):
        rng = _generator(seed, 1, first + i)
        scalars[:, i, 0, 0] = rng.random(len(scalars), dtype=np.float32)
        fields[:, i] = rng.standard_normal((len(fields), frame, frame), dtype=np.float32)
    return scalars, fields


def _over_stage(stages: Sequence[str], name: str, progress: Floats) -> Floats:
    """Return (cell, 1, 1) values of a property of the look, as far through the stage as each cell is."""
    table = np.array([np.broadcast_to(getattr(_LOOKS[stage], name), 2) for stage in stages], dtype=np.float32)
    start, end = table[:, :1, None], table[:, 1:, None]
    return np.asarray(start + (end - start) * progress, dtype=np.float32)


def _wobble(along: Floats, across: Floats, amounts: Sequence[Floats]) -> Floats:
    """Return (cell, y, x) factors on the radius, 1 on average: an outline with two and with three bulges."""
    length = np.sqrt(along**2 + across**2 + 1e-3)
    cos1, sin1 = along / length, across / length
    cos2, sin2 = cos1**2 - sin1**2, 2 * cos1 * sin1
    cos3, sin3 = cos2 * cos1 - sin2 * sin1, sin2 * cos1 + cos2 * sin1
    two, three = amounts[0] * cos2 + amounts[1] * sin2, amounts[2] * cos3 + amounts[3] * sin3
    return np.asarray(1 + 0.028 * two + 0.014 * three, dtype=np.float32)


def _from_lobes(along: Floats, across: Floats, parting: Floats) -> Floats:
    """Return (cell, y, x) squared distances from the nearer of two lobes' centres, with the cleft a little filled."""
    beyond = np.abs(along) - parting
    return np.asarray(np.maximum(beyond, -0.9 * beyond) ** 2 + across**2, dtype=np.float32)


def _smooth(field: Floats, sigma: float) -> Floats:
    """Blur (cell, y, x) fields by a Gaussian of `sigma` pixels and bring them to mean 0 and standard deviation 1."""
    fy, fx = _frequencies(field.shape[-1])
    field = _seen_through(field, np.exp(-2 * np.pi**2 * sigma**2 * (fy**2 + fx**2)))
    centred = field - field.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / centred.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def _frequencies(frame: int) -> tuple[Floats, Floats]:
    """Return the (y, 1) and (1, x) frequencies of a real transform, in cycles per pixel."""
    return (
        fft.fftfreq(frame).astype(np.float32)[:, None],
        fft.rfftfreq(frame).astype(np.float32)[None, :],
    )


def _seen_through(field: Floats, transfer: Floats) -> Floats:
    """Multiply the spectra of (cell, y, x) fields by (cell, y, x // 2 + 1) transfer functions."""
    return np.asarray(fft.irfft2(fft.rfft2(field) * transfer, s=field.shape[1:]), dtype=np.float32)


def _phase_transfer(defocus: Floats, frame: int) -> Floats:
    """Return the transfer functions from phase to contrast of cells `defocus` µm from the focal plane."""
    wavelength, pixels_per_um, illumination = 0.55, 2.0, 0.12
    fy, fx = _frequencies(frame)
    q2 = (fy**2 + fx**2) * np.float32(pixels_per_um**2)
    # The camera reads while the cells pass: a little blur along the flow.
    damping = np.exp(-q2 * ((np.pi * illumination * defocus) ** 2 + 1.4) - 4.0 * fy**2)
    return np.asarray(2 * np.sin(np.pi * wavelength * defocus * q2) * damping, dtype=np.float32)


def _granules(field: Floats, *, above: float) -> Floats:
    """Turn normal noise into sparse points: their excess over a threshold is nearly exponential."""
    return np.asarray(np.clip(field - above, 0, None), dtype=np.float32)


def _brightfield(cells: _Cells) -> npt.NDArray[np.uint16]:
    """Return (cell, y, x) BF images."""
    frame = cells.height.shape[-1]
    # Organelles are pushed aside by chromatin: the faint sign of a nucleus or a plate.
    density = cells.chromatin / cells.chromatin.max(axis=(1, 2), keepdims=True)
    room = np.sqrt(cells.height) * (1 - cells.crowding * density)
    body = 0.143 * cells.contrast * cells.radius * (cells.height * (1 + 0.12 * density) + cells.bumps)
    uneven = 0.07 * cells.unevenness * np.sqrt(cells.height) * _smooth(cells.fields[1], 1.0)
    upper, lower = (cells.granularity * cells.gathering * room * _granules(cells.fields[i], above=0.7) for i in (0, 1))
    light = _seen_through(body, _phase_transfer(cells.defocus + 0.8, frame))
    light += _seen_through(uneven + 0.31 * upper, _phase_transfer(0.5 * cells.defocus + 0.4, frame))
    light += _seen_through(0.31 * lower, _phase_transfer(0.35 * cells.defocus - 2.6, frame))
    return _camera(_BACKGROUND["BF"] * (1 + light), cells.fields[3], "BF")


def _stain_and_scatter(cells: _Cells) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Return (cell, y, x) PI and DF images, each with its share of the other subtracted."""
    stain, scatter = _nuclear_stain(cells), _scatter(cells)
    pi = _BACKGROUND["PI"] + cells.pi_background + stain - 0.13 * scatter
    df = _BACKGROUND["DF"] + scatter - cells.spill * stain
    return _camera(pi, cells.fields[4], "PI"), _camera(df, cells.fields[5], "DF")


def _nuclear_stain(cells: _Cells) -> Floats:
    """Return (cell, y, x) light of PI in counts."""
    fy, fx = _frequencies(cells.height.shape[-1])
    q2 = 2 * np.pi**2 * (fy**2 + fx**2)
    # RNA takes some of the stain all over the cell.
    spread = cells.height / cells.height.sum(axis=(1, 2), keepdims=True)
    sharp, haze = np.exp(-q2 * cells.blur**2), np.exp(-q2 * (10.0 + 1.6 * cells.blur**2))
    return cells.integrated_pi * _seen_through(0.65 * cells.chromatin + 0.35 * spread, 0.7 * sharp + 0.3 * haze)


def _scatter(cells: _Cells) -> Floats:
    """Return (cell, y, x) light of DF in counts: granules, and the edge towards the laser."""
    fy, fx = _frequencies(cells.height.shape[-1])
    sharp = np.exp(-2 * np.pi**2 * (0.5 * fy**2 + 0.6 * fx**2))
    streaked = np.exp(-2 * np.pi**2 * (0.6 * fy**2 + 4.0 * fx**2))
    side = 1 / (1 + np.exp(-2.2 * cells.leftward))
    inside = cells.height > 0
    points = (
        (0.75 * _granules(cells.fields[0], above=1.0) ** 2 * side + 0.15 * _granules(cells.fields[2], above=0.5))
        * cells.gathering
        * inside
    )
    edge = np.exp(-(((cells.leftward - 1.0) / 0.25) ** 2)) * (_seen_through(cells.height, streaked) > 0.02)
    rays = _granules(cells.fields[2], above=0.5) ** 2 * edge
    light = 250 * cells.scattering * _seen_through(points, sharp) + 200 * cells.rim * _seen_through(rays, streaked)
    return np.clip(light, 0, None)


def _striped(noise: Floats) -> Floats:
    """Give white (cell, y, x) noise what a camera has that reads while cells pass: columns, a drifting level."""
    return np.asarray(
        0.95 * noise
        + 0.2 * np.roll(noise, 1, axis=1)
        + 0.1 * np.roll(noise, 1, axis=2)
        + 1.6 * noise.mean(axis=1, keepdims=True)
        + 15 * noise.mean(axis=(1, 2), keepdims=True),
        dtype=np.float32,
    )


def _camera(light: Floats, noise: Floats, channel: str) -> npt.NDArray[np.uint16]:
    """Add shot and read noise to (cell, y, x) light and count it."""
    above = np.clip(light - _BACKGROUND[channel], 0, None)
    counts = light + _striped(noise) * np.sqrt(_READ_NOISE[channel] ** 2 + _SHOT_GAIN[channel] * above)
    return np.asarray(np.clip(np.rint(counts), 0, 2**_BIT_DEPTH - 1), dtype=np.uint16)
