"""The directories of a TIFF as they lie in the file, compared with what tifffile makes of them and believes."""

import struct
from typing import Literal

from tifffile import TiffFile, TiffFrame, TiffPage

from tilesegment.errors import ImageError

# tags
ORIENTATION = 274
_DESCRIPTION = 270
# tags of which pages of one stack have the same value, if it is one number, and what they are where they are missing
_ALIKE = {
    256: "width",
    257: "height",
    258: "bits of a sample",
    259: "compression",
    262: "colour kind",
    ORIENTATION: "orientation",
    277: "samples of a pixel",
    284: "planar configuration",
    317: "predictor",
    322: "tile width",
    323: "tile height",
    339: "sample format",
}
_DEFAULTS = {258: 1, 259: 1, ORIENTATION: 1, 277: 1, 284: 1, 317: 1, 339: 1}
_ORDER: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


def check_pages(path: str, tiff: TiffFile) -> None:
    """Compare the directory with what tifffile made of it, which drops pages and descriptions that it cannot read.

    Raises:
        ImageError: the last page that can be read names another one, or the description, which says what the pages are,
            lies beyond the end of the file.
    """
    file, kind, position = tiff.filehandle, tiff.tiff, tiff.pages.next_page_offset
    if position is not None:
        file.seek(position)
        if file.read(kind.offsetsize) != bytes(kind.offsetsize):
            raise ImageError(f"{path} is truncated or damaged: its chain of pages does not end: copy it again")
    first = tiff.pages.first
    if _DESCRIPTION in _directory(tiff, first.offset) and _DESCRIPTION not in first.tags:
        raise ImageError(f"{path} is truncated or damaged: its description cannot be read: copy it again")


def check_alike(path: str, key: TiffPage, page: TiffPage | TiffFrame) -> None:
    """Compare a page of a stack with the one that says how all of them are stored; tifffile believes a description.

    Raises:
        ImageError: it is of another size, compression or kind.
    """
    if page.offset == key.offset:
        return
    first, other = (_directory(key.parent, each.offset) for each in (key, page))
    for code, name in _ALIKE.items():
        values = [entries.get(code, b"") for entries in (first, other)]
        if values[0] != values[1] and all(map(_is_inline, values, [key.parent] * 2)):
            numbers = [_integer(value, key.parent) for value in values]
            if numbers[0] != numbers[1] and {*numbers} != {None, _DEFAULTS.get(code)}:
                raise ImageError(
                    f"{path} has pages of one stack that differ: the {name} of one is {numbers[0]}, of another "
                    f"{numbers[1]}: export its images to files of their own"
                )


def _directory(tiff: TiffFile, offset: int) -> dict[int, bytes]:
    """The entries of the directory at `offset` by code: type, count, and the value or where it lies."""
    file, kind = tiff.filehandle, tiff.tiff
    file.seek(offset)
    (count,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
    entries = file.read(count * kind.tagsize)
    starts = range(0, count * kind.tagsize, kind.tagsize)
    return {struct.unpack_from(f"{kind.byteorder}H", entries, at)[0]: entries[at : at + kind.tagsize] for at in starts}


def _is_inline(entry: bytes, tiff: TiffFile) -> bool:
    """Whether an entry holds one number, which then stands in it."""
    return not entry or _count(entry, tiff) == 1


def _count(entry: bytes, tiff: TiffFile) -> int:
    return int.from_bytes(entry[4 : 4 + tiff.tiff.offsetsize], _ORDER[tiff.byteorder])


def _integer(entry: bytes, tiff: TiffFile) -> int | None:
    """The number in an entry; None if there is no entry."""
    if not entry:
        return None
    width = {1: 1, 3: 2, 4: 4}.get(int.from_bytes(entry[2:4], _ORDER[tiff.byteorder]), tiff.tiff.offsetsize)
    start = 4 + tiff.tiff.offsetsize
    return int.from_bytes(entry[start : start + width], _ORDER[tiff.byteorder])
