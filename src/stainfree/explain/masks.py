"""Masks: which pixels of an image belong to the cell, or to its stained nucleus.

A brightfield image has no background of zero: the cell is where the light departs from the even level around it,
brighter or darker. The mask is therefore cut from the local departure, not from the light itself. The dark rim of
an out-of-focus cell counts as cell, since a model may read it.

A stain shines on a dark background: the nucleus is what is bright, and its own light parts it from the haze around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# Widths in pixels, for cells of 15 to 35 pixels across, as the imaging flow cytometer's 20x to 40x lenses give.
SMOOTHING = 1.0
CLOSING_RADIUS = 2
# The weakest departure that counts as cell, in standard deviations of the background: an empty frame has no cell.
LOWEST_CUT = 2.5
# A second object belongs to the cell where it has at least this share of the largest one's area: the daughters in
# telophase are of one size, debris is smaller.
PARTNER_SHARE = 0.5


def otsu(values: npt.NDArray[np.floating[Any]], *, bins: int = 64) -> float:
    """Return the cut that best parts `values` in two (Otsu, IEEE Trans. Syst. Man Cybern. 1979, eq. 18).

    Parameters
    ----------
    values
        Any shape and unit; a constant array gives its own value.
    bins
        Bins of the histogram.
    """
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = counts.sum() - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + int(np.argmax(np.nan_to_num(between[:-1])))])


def acquired(image: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Return the part of an image (y, x) that was acquired: without rows and columns padded by edge values.

    A padded row is a copy of the one inside it; camera noise makes two acquired rows never equal. An image that is
    constant is taken as acquired as a whole.
    """
    parts = []
    for lines in (image, image.T):
        # A padded strip repeats its lines only where it is not padded on the other axis too, hence whole lines.
        changes = np.flatnonzero((lines[1:] != lines[:-1]).any(axis=1))
        parts.append(slice(int(changes[0]), int(changes[-1]) + 2) if len(changes) else slice(0, len(lines)))
    return parts[0], parts[1]


def _in_noise(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Return the image (y, x) less its background, in standard deviations of the background."""
    rim = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
    level = np.median(rim)
    # The quieter half of the rim is background even where a daughter cell touches the edge of the frame.
    noise = 1.4826 * np.median(np.abs(rim - level)) or 1.0
    return np.asarray((image - level) / noise)


def _closed(found: npt.NDArray[np.bool_], *, rim: int) -> npt.NDArray[np.bool_]:
    """Close gaps and holes of the found pixels (y, x), drop threads, and take back the rim that smoothing added."""
    reach = np.arange(-CLOSING_RADIUS, CLOSING_RADIUS + 1)
    disc = np.hypot(*np.meshgrid(reach, reach)) <= CLOSING_RADIUS + 0.3
    # Padding keeps closing, opening and erosion from eating into a cell at the frame's edge.
    found = np.pad(found, CLOSING_RADIUS + 1, mode="edge")
    found = ndimage.binary_fill_holes(ndimage.binary_closing(found, disc))
    found = ndimage.binary_opening(found, disc)
    if rim:
        found = ndimage.binary_erosion(found, iterations=rim)
    inside = slice(CLOSING_RADIUS + 1, -CLOSING_RADIUS - 1)
    return np.asarray(found[inside, inside])


def _central(found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep the large, central object of the found pixels (y, x), with its equals: the cytometer centres the cell."""
    labels, n_objects = ndimage.label(found)
    if n_objects < 2:
        return found
    middle = (np.array(found.shape) - 1) / 2
    centres = np.array(ndimage.center_of_mass(found, labels, range(1, n_objects + 1)))
    distance = (((centres - middle) / middle) ** 2).sum(axis=1)
    weight = np.bincount(labels.ravel())[1:] * np.exp(-distance)
    return np.isin(labels, 1 + np.flatnonzero(weight >= PARTNER_SHARE * weight.max()))


def _departing(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Find where a brightfield image (y, x) is brighter or darker than its background."""
    departure = np.sqrt(ndimage.gaussian_filter(_in_noise(image) ** 2, SMOOTHING))
    # The logarithm: granules are ten times as strong as the faint body of a cell, and both are cell.
    return _closed(departure > max(np.exp(otsu(np.log(departure + 0.1))), LOWEST_CUT), rim=1)


def _shining(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Find where an image (y, x) of a stain is bright."""
    light = ndimage.gaussian_filter(_in_noise(image), SMOOTHING)
    # About half-way up the slope of the light, where smoothing adds no rim.
    return _closed(light > max(otsu(light), LOWEST_CUT), rim=0)


def _masks(
    images: npt.NDArray[Any], found_in: Callable[[npt.NDArray[np.floating[Any]]], npt.NDArray[np.bool_]]
) -> npt.NDArray[np.bool_]:
    """Return the central object (n, y, x) of what `found_in` finds in the acquired part of each image."""
    masks = np.zeros(images.shape, dtype=bool)
    for mask, image in zip(masks, images, strict=True):
        part = acquired(image)
        mask[part] = _central(found_in(image[part].astype(np.float64)))
    return masks


def cell_mask(images: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Segment the cell in brightfield images.

    Parameters
    ----------
    images
        (n, y, x) brightfield counts of any dtype; frames may be padded by edge values.

    Returns
    -------
    ndarray of bool
        (n, y, x), True on the cell; all False where nothing departs from the background.
    """
    return _masks(images, _departing)


def nucleus_mask(images: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Segment the nucleus in images of a nuclear stain; in telophase, the nuclei of both daughters.

    Parameters
    ----------
    images
        (n, y, x) counts of any dtype; frames may be padded by edge values.

    Returns
    -------
    ndarray of bool
        (n, y, x), True on the nucleus; all False where nothing shines.
    """
    return _masks(images, _shining)
