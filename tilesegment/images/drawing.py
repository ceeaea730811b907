"""Synthetic images for benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

from tilesegment.errors import ImageError, one_line

_CHUNK, _SHARD = 512, 2048  # sides in pixels, as slides are often stored


def draw_zarr(path: str | Path, shape: tuple[int, int], mean: Sequence[float], std: Sequence[float], dtype: str) -> str:
    """Write a Zarr array (C, H, W) of cloudy noise that hardly compresses, the same for the same arguments.

    Args:
        path: must not exist; it is returned.
        shape: (H, W).
        mean, std: of the grey values, one per channel, before they are clipped to the range of `dtype`.
        dtype: uint8, uint16 or float32.

    Raises:
        ImageError: it cannot be written.
    """
    (height, width), channels = shape, len(mean)
    rng, side = np.random.default_rng(0), min(_SHARD, max(shape))
    clouds = ndimage.gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), 3, mode="wrap")
    unit = clouds / clouds.std() + rng.normal(size=clouds.shape).astype(np.float32) / 8
    shard = np.stack([unit * s + m for m, s in zip(mean, std, strict=True)])
    if dtype != "float32":
        shard = np.rint(shard).clip(np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    try:
        array = zarr.create_array(
            path,
            shape=(channels, height, width),
            chunks=(channels, _CHUNK, _CHUNK),
            shards=(channels, _SHARD, _SHARD),
            dtype=dtype,
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            dimension_names=("c", "y", "x"),
        )
        for y in range(0, height, _SHARD):
            for x in range(0, width, _SHARD):
                array[:, y : y + _SHARD, x : x + _SHARD] = shard[:, : min(side, height - y), : min(side, width - x)]
    except OSError as error:
        raise ImageError(f"{path} cannot be written ({one_line(error, 200)}); choose another folder") from error
    return str(path)
