"""Images that are drawn, where there is none to measure with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

from tilesegment.errors import ImageError, one_line

_CHUNK, _SHARD = 512, 2048  # sides, pixels: as slides are often stored


def draw_zarr(path: str | Path, shape: tuple[int, int], mean: Sequence[float], std: Sequence[float], dtype: str) -> str:
    """Writes a Zarr array (C, H, W) of cloudy noise, the same for the same arguments, that hardly compresses.

    Args:
        path: must not exist.
        shape: (H, W).
        mean, std: of the grey values, one a channel, before they are clipped to what `dtype` holds.
        dtype: uint8, uint16 or float32.

    Returns:
        `path`.

    Raises:
        ImageError: the disk refuses.
    """
    (height, width), channels = shape, len(mean)
    rng, limits = np.random.default_rng(0), None if dtype == "float32" else np.iinfo(dtype)
    side = min(_SHARD, max(shape))
    clouds = ndimage.gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), 3, mode="wrap")
    unit = clouds / clouds.std() + rng.normal(size=clouds.shape).astype(np.float32) / 8
    scaled = np.stack([unit * s + m for m, s in zip(mean, std, strict=True)])
    shard = (scaled if limits is None else np.rint(scaled).clip(limits.min, limits.max)).astype(dtype)
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
                part = shard[:, : min(_SHARD, height - y), : min(_SHARD, width - x)]
                array[:, y : y + _SHARD, x : x + _SHARD] = part
    except OSError as error:
        raise ImageError(f"{path} cannot be written ({one_line(error, 200)}); choose another folder") from error
    return str(path)
