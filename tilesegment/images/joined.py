"""An image whose channels lie in a file each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.source import ImageSource


class JoinedSource(ImageSource):
    """Images of one size and type as one image: the channels of the first, then those of the second, ..."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        first = sources[0]
        for other in sources[1:]:
            if (other.shape, other.depth, other.stored_dtype) != (first.shape, first.depth, first.stored_dtype):
                sizes = [
                    f"{one.path} is {one.depth or 1} x {one.shape[0]} x {one.shape[1]} (z, y, x) of {one.stored_dtype}"
                    for one in (first, other)
                ]
                raise ImageError(
                    f"the channels of an image differ: {', '.join(sizes)}; they must be of one size and type"
                )
        channels = sum(one.channels for one in sources)
        notes = tuple(note for one in sources for note in one.notes)
        super().__init__(
            path=first.path,
            format=first.format,
            levels=first.levels[:1],
            depth=first.depth,
            channels=channels,
            dtype=first.stored_dtype,
            frame=first.frame,
        )
        self.notes = notes
        self._sources = tuple(sources)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        return np.concatenate([one.read_stored(region, level, z) for one in self._sources])

    def close(self) -> None:
        """Close all files."""
        for one in self._sources:
            one.close()


def open_channels(paths: Sequence[Path], *, invert: bool = False) -> ImageSource:
    """Open an image, or one whose channels are the files `paths`, in this order; `invert` as in `open_image`.

    Raises:
        ImageError: one cannot be read, or they are of different sizes or types.
    """
    if len(paths) == 1:
        return open_image(paths[0], invert=invert)
    sources: list[ImageSource] = []
    try:
        sources += (open_image(path, invert=invert) for path in paths)
        return JoinedSource(sources)
    except BaseException:
        for one in sources:
            one.close()
        raise
