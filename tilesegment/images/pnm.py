"""PBM, PGM and PPM, of 8 and 16 bits: read row by row where they are binary, decoded as a whole where they are text."""

import os
import re
from pathlib import Path

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.images.decoded import DecodedSource, check_size
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.raw import RawSource, Storage
from tilesegment.images.source import ImageSource, Shown
from tilesegment.metadata import UNKNOWN_FRAME

_MOST_HEADER = 1 << 16  # bytes, comments included
_WORD = re.compile(rb"(?:\s+|#[^\r\n]*[\r\n])*(\d+)")
_TEXT, _BITS = "123", "14"  # kinds that are text, and of one bit a pixel, of which 1 is black


def open_pnm(path: str, choices: Choices) -> ImageSource:
    """Open a PNM without reading a pixel; values are as stored, whatever the header calls white.

    Raises:
        ImageError: its header is damaged, or it is truncated.
    """
    if choices.axes is not None:
        raise ImageError(f"{path} is a PNM, whose axes are known: leave out --axes {choices.axes}")
    chosen_series(path, choices.series, ())
    with open(path, "rb") as file:
        start = file.read(_MOST_HEADER)
    kind, words, offset = start[1:2].decode(), [], 2
    for _ in range(2 if kind in _BITS else 3):
        found = _WORD.match(start, offset)
        if found is None or len(found[1]) > 9:
            raise ImageError(f"{path} is a PNM whose header is damaged: copy or export it again")
        words.append(int(found[1]))
        offset = found.end()
    (width, height, white), samples = (*words, 1)[:3], 3 if kind in "36" else 1
    if not 0 < white < 1 << 16:
        raise ImageError(f"{path} has values up to {white}; 1 to 65535 are allowed: its header is damaged")
    dtype = np.dtype(bool) if kind in _BITS else np.dtype(np.uint8 if white < 256 else ">u2")
    shape = (height, width) + (samples,) * (samples > 1)
    layout = arrange(path, "yxs"[: len(shape)], shape, choices.select)
    notes = note_on_inversion(path, choices.invert)
    if kind not in _BITS and white not in (255, 65535):
        notes.append(f"{path} calls {white} white: values are read as stored")
    if kind in _TEXT:
        check_size(path, height, width)
        return DecodedSource(path, "PNM", dtype, layout, Shown(notes=notes), lambda: _text(path, kind, layout, offset))
    # a single whitespace ends the header
    storage = Storage(offset + 1, dtype, samples, *((1, _bits) if kind in _BITS else ()))
    end, there = storage.offset + height * storage.row_bytes(width), os.path.getsize(path)
    if there < end:
        raise ImageError(f"{path} is truncated: it has {there:,} of {end:,} bytes: copy it again")
    if there > end:
        notes.append(f"{path} has {there - end:,} bytes after its image, maybe other images: they are not read")
    return RawSource(path, "PNM", storage, layout, UNKNOWN_FRAME, Shown(notes=notes))


def _bits(rows: np.ndarray) -> np.ndarray:
    return np.unpackbits(rows, axis=1) == 0


def _text(path: str, kind: str, layout: Layout, offset: int) -> np.ndarray:
    """Decode the numbers of a text file, of which those of one bit need no space between them."""
    content = re.sub(rb"#[^\r\n]*", b"", Path(path).read_bytes()[offset:])
    if kind in _BITS:
        values = np.frombuffer(b"".join(content.split()), np.uint8) == ord("0")
    else:
        values = np.array(content.split(), np.uint16)
    return values[: int(np.prod(layout.shape))].reshape(layout.shape)
