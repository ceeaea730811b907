"""NDPI in both of its layouts: of 64-bit offsets, which tifffile reads, and classic TIFF, which OpenSlide does."""

from tilesegment.errors import ImageError
from tilesegment.images.byte_ranges import RemoteFile
from tilesegment.images.layout import Choices
from tilesegment.images.openers import opener_of
from tilesegment.images.source import ImageSource
from tilesegment.images.tiff import open_tiff

_OFFSET = slice(4, 12)  # bytes of the offset of the first page, in the 64-bit layout


def open_ndpi(given: str | RemoteFile, choices: Choices) -> ImageSource:
    """Open an NDPI file with tifffile, whose reads are exact on all levels; what it does not read with OpenSlide.

    On a server there is no OpenSlide.
    """
    if isinstance(given, RemoteFile):
        return open_tiff(given, choices)
    path = given
    with open(path, "rb") as file:
        head = file.read(12)
        size = file.seek(0, 2)
    if int.from_bytes(head[_OFFSET], "little") >= size and head[:4] == b"II*\0":  # the upper half is another value
        return opener_of(path, "openslide:open_openslide", "wsi")(path, choices)
    try:
        return open_tiff(path, choices)
    except ImageError as refused:
        try:
            return opener_of(path, "openslide:open_openslide", "wsi")(path, choices)
        except ImageError:
            raise refused from None
