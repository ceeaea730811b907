"""The weight map of the U-Net paper: what lies between two close cells counts most."""

import numpy as np
from scipy import ndimage

# beyond this many sigma the weight is less than w0 / 3000
_REACH = 4


def border_weights(inside: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)) outside of cells, 0 inside.

    Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), equation 2, without the class weights w_c. d1 and d2 are the
    distances to the nearest and the second nearest cell, in pixels; the cells are the 4-connected regions of `inside`.

    Args:
        inside: (H, W) bool, True inside a cell.
        w0: weight of a pixel that touches two cells, but for their distance.
        sigma: of the fall, pixels.

    Returns:
        (H, W) float32.
    """
    cells, _ = ndimage.label(inside)
    nearest = np.full(inside.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(_REACH * sigma))
    for cell, box in enumerate(ndimage.find_objects(cells), 1):
        around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = ndimage.distance_transform_edt(cells[around] != cell).astype(np.float32)
        second[around] = np.minimum(second[around], np.maximum(distance, nearest[around]))
        nearest[around] = np.minimum(nearest[around], distance)
    weights = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(inside, 0, weights).astype(np.float32)
