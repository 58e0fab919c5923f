"""Simulated cells: a teaching and testing aid, never evidence.

The cells drawn here let the whole workflow run anywhere, offline and at once. They look like Jurkat cells in an imaging
flow cytometer, but every difference between their stages was put in by hand: a score reached on them says that the code
works, and nothing about cells.

What is drawn, and after what:

- *Bodies.* One lobe, or two parted along the axis of division; sizes, outlines and their spread follow the cells of
  Experiment_1 of the public montages (github.com/minh-doan/MLCP; Blasi et al. 2016, doi:10.1038/ncomms10256). The looks
  of Metaphase and Anaphase were set until the five classes were about as hard to tell apart in BF as on those cells.
- *BF.* Cells and granules are weak phase objects seen out of focus in partially coherent light: in the spectrum, the
  phase is multiplied by sin(pi * wavelength * z * q**2) under an envelope that narrows with the defocus z (the
  weak-object transfer function, Streibl 1985, doi:10.1364/JOSAA.2.000121, its envelope taken as Gaussian). This makes
  the bright body, brighter rim and dark ring of these cells, and their dependence on focus.
- *PI.* Chromatin after the stage: a nucleus of 2n (G1), 2n to 4n (S, uniformly) or 4n, mottled and then condensed in
  Prophase, one plate in Metaphase, two in Anaphase, two in two daughter cells in Telophase. Its sum over the image
  is proportional to the DNA content, times a staining variation of `STAINING_CV`.
- *DF.* The shadow of the cell on a low background, and bright speckle, most of it on the side of the laser.

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
from scipy import fft, ndimage, special

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
STAINING_CV = 0.06
"""Coefficient of variation of the PI staining from cell to cell."""

_BIT_DEPTH = 12
_CHUNK = 32  # cells drawn at a time: few enough that their fields stay in the cache
_FRAME = 66  # smallest frame to draw in: wide enough that nothing wraps around in the spectrum
_SMALLEST_IMAGE = 40  # two daughter cells still fit
_BACKGROUND = {"BF": 677.0, "PI": 42.0, "DF": 27.0}
_READ_NOISE = {"BF": 5.5, "PI": 2.2, "DF": 1.8}
_SHOT_GAIN = {"BF": 0.0, "PI": 0.25, "DF": 0.6}  # variance per count above the background
_PI_PER_GENOME = 70_000.0  # integrated counts per n of DNA: G1 cells of the montages hold about 140,000


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
    nucleus: tuple[float, float] = (1.0, 1.0)
    """Radius of the chromatin across the axis, as a share of the lobe's."""
    thickness: tuple[float, float] = (1.0, 1.0)
    """Radius of the chromatin along the axis, as a share of that across: 1 for a nucleus, less for a plate."""
    mottling: float = 0.16
    """Standard deviation of the logarithm of the chromatin's density."""
    granules: float = 1.0
    """Contrast of the granules in BF."""


_LOOKS: Mapping[str, _Look] = {
    "G1": _Look(dna=(2, 2), radius=(8.6, 9.4)),
    "S": _Look(dna=(2, 4), radius=(9.4, 10.3)),
    "G2": _Look(dna=(4, 4), radius=(10.2, 11.1)),
    "Prophase": _Look(
        dna=(4, 4), radius=(10.9, 11.6), nucleus=(0.98, 0.92), thickness=(0.98, 0.85), mottling=0.45, granules=0.8
    ),
    "Metaphase": _Look(
        dna=(4, 4),
        radius=(11.0, 11.0),
        parting=(0.6, 2.0),
        nucleus=(1.0, 0.95),
        thickness=(0.58, 0.36),
        mottling=0.36,
        granules=0.85,
    ),
    "Anaphase": _Look(
        dna=(4, 4),
        radius=(10.2, 9.1),
        parting=(3.0, 5.2),
        plates=(5.2, 6.6),
        nucleus=(0.92, 0.92),
        thickness=(0.45, 0.42),
        mottling=0.3,
        granules=0.75,
    ),
    "Telophase": _Look(
        dna=(4, 4),
        radius=(8.8, 8.3),
        parting=(7.6, 9.4),
        plates=(7.6, 9.4),
        nucleus=(0.98, 0.98),
        thickness=(0.55, 0.6),
        mottling=0.28,
        granules=0.85,
    ),
}


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
        drawn = np.stack([_brightfield(cells), _nuclear_stain(cells), _darkfield(cells)], axis=1)
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
    contrast: Floats
    """(cell, 1, 1) refractive index of the body over that of the medium, relative."""
    granularity: Floats
    """(cell, 1, 1) contrast of the granules."""
    scattering: Floats
    """(cell, 1, 1) brightness of the speckle."""
    staining: Floats
    """(cell, 1, 1) PI per DNA, relative."""
    fields: Floats
    """(field, cell, y, x) standard normal: 2 of granules, 1 of speckle, 3 of camera noise."""


def _draw(stages: Sequence[str], *, seed: int, first: int, frame: int) -> _Cells:
    """Draw what the cells are: geometry, chromatin, contrasts and all random fields."""
    scalars, fields = _random(len(stages), seed=seed, first=first, frame=frame)
    progress, focus, turn, tilt = scalars[:4]
    # Bounded, so that no cell leaves its image.
    deviates = iter(np.clip(special.ndtri(scalars[4:].clip(1e-4, 1 - 1e-4)), -2.5, 2.5).astype(np.float32))
    look = {name: _over_stage(stages, name, progress) for name in _Look.__dataclass_fields__}

    # Doublets travel with the flow, upright in the image; what is round turns as it likes.
    upright = np.array([stage == "Telophase" for stage in stages])[:, None, None]
    angle = np.where(upright, np.pi / 2 + 0.12 * next(deviates), np.pi * turn).astype(np.float32)
    pixel = np.arange(frame, dtype=np.float32) - (frame - 1) / 2
    x, y = pixel[None, None, :] - 1.1 * next(deviates), pixel[None, :, None] - 0.9 * next(deviates)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    radius = look["radius"] * (1 + 0.05 * next(deviates))
    stretch = 1 + 0.05 * next(deviates)
    wobble = _wobble(along, across, [next(deviates) for _ in range(4)])
    height = np.sqrt(
        np.clip(1 - _from_lobes(along, across, look["parting"] * stretch) / (radius * wobble) ** 2, 0, None)
    )

    # A plate seen at a slant is broader than one seen edge-on.
    broad = look["thickness"] + (1 - look["thickness"]) * 0.6 * tilt**4
    width = look["nucleus"] * radius * (1 + 0.05 * next(deviates)) * wobble
    distance2 = (((np.abs(along) - look["plates"] * stretch) / broad) ** 2 + across**2) / width**2
    clumps = _normalised(ndimage.gaussian_filter(fields[0], sigma=(0, 1.5, 1.5), mode="wrap"))
    chromatin = np.clip(1 - distance2**2, 0, None) * np.exp(look["mottling"] * clumps)

    return _Cells(
        dna_content=look["dna"][:, 0, 0],
        defocus=0.5 + 9.0 * focus**1.4,
        radius=radius,
        height=height,
        chromatin=chromatin / chromatin.sum(axis=(1, 2), keepdims=True),
        leftward=-(x + 0.7 * next(deviates) * y) / radius,
        contrast=1 + 0.12 * next(deviates),
        granularity=look["granules"] * np.exp(0.35 * next(deviates)),
        scattering=np.exp(0.55 * next(deviates)),
        staining=1 + STAINING_CV * next(deviates),
        fields=fields[1:],
    )


def _random(n_cells: int, *, seed: int, first: int, frame: int) -> tuple[Floats, Floats]:
    """Return (scalar, cell, 1, 1) uniform and (field, cell, y, x) standard normal numbers, each cell's own."""
    scalars = np.empty((19, n_cells, 1, 1), dtype=np.float32)
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


def _normalised(field: Floats) -> Floats:
    """Bring (cell, y, x) fields to mean 0 and standard deviation 1."""
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
    wavelength, pixels_per_um, illumination = 0.55, 2.0, 0.16
    fy, fx = _frequencies(frame)
    q2 = (fy**2 + fx**2) * np.float32(pixels_per_um**2)
    damping = np.exp(-q2 * ((np.pi * illumination * defocus) ** 2 + 1.5))
    return np.asarray(2 * np.sin(np.pi * wavelength * defocus * q2) * damping, dtype=np.float32)


def _granules(field: Floats, *, above: float) -> Floats:
    """Turn normal noise into sparse points: their excess over a threshold is nearly exponential."""
    return np.asarray(np.clip(field - above, 0, None), dtype=np.float32)


def _brightfield(cells: _Cells) -> npt.NDArray[np.uint16]:
    """Return (cell, y, x) BF images."""
    frame = cells.height.shape[-1]
    # Organelles are pushed aside by chromatin: the faint sign of a nucleus or a plate.
    density = cells.chromatin / cells.chromatin.max(axis=(1, 2), keepdims=True)
    room = cells.granularity * np.sqrt(cells.height) * (1 - 0.8 * density)
    body = 0.165 * cells.contrast * cells.radius * cells.height * (1 + 0.12 * density)
    upper, lower = (room * _granules(cells.fields[i], above=1.3) for i in (0, 1))
    light = _seen_through(body + 2.0 * upper, _phase_transfer(cells.defocus + 0.8, frame))
    light += _seen_through(1.1 * lower, _phase_transfer(cells.defocus - 1.4, frame))
    noise = _normalised(ndimage.gaussian_filter(cells.fields[3], sigma=(0, 0.54, 0.76), mode="wrap"))
    return _camera(_BACKGROUND["BF"] * (1 + light), noise, "BF")


def _nuclear_stain(cells: _Cells) -> npt.NDArray[np.uint16]:
    """Return (cell, y, x) PI images."""
    fy, fx = _frequencies(cells.height.shape[-1])
    sigma2 = 2.0 + (0.38 * cells.defocus) ** 2
    # RNA takes some of the stain all over the cell.
    spread = cells.height / cells.height.sum(axis=(1, 2), keepdims=True)
    stain = _seen_through(0.7 * cells.chromatin + 0.3 * spread, np.exp(-2 * np.pi**2 * sigma2 * (fy**2 + fx**2)))
    counts = _PI_PER_GENOME * cells.dna_content[:, None, None] * cells.staining
    return _camera(_BACKGROUND["PI"] + counts * stain, cells.fields[4], "PI")


def _darkfield(cells: _Cells) -> npt.NDArray[np.uint16]:
    """Return (cell, y, x) DF images."""
    fy, fx = _frequencies(cells.height.shape[-1])
    blur = np.exp(-2 * np.pi**2 * (fy**2 * (0.35 + 0.02 * cells.defocus**2) + fx**2 * (0.5 + 0.05 * cells.defocus**2)))
    side = 1 / (1 + np.exp(-3.0 * cells.leftward))
    points = _granules(cells.fields[2], above=1.0) ** 2 * side * (cells.height > 0)
    speckle = 440 * cells.scattering * np.clip(_seen_through(points, blur), 0, None)
    shadow = 16 * _seen_through(np.sqrt(cells.height), blur)
    return _camera(_BACKGROUND["DF"] - shadow + speckle, cells.fields[5], "DF")


def _camera(light: Floats, noise: Floats, channel: str) -> npt.NDArray[np.uint16]:
    """Add shot and read noise to (cell, y, x) light and count it."""
    above = np.clip(light - _BACKGROUND[channel], 0, None)
    counts = light + noise * np.sqrt(_READ_NOISE[channel] ** 2 + _SHOT_GAIN[channel] * above)
    return np.asarray(np.clip(np.rint(counts), 0, 2**_BIT_DEPTH - 1), dtype=np.uint16)
