"""What a TIFF, PNG or JPEG says of the mask that it was exported from, as `export` has written it."""

import json
import os
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image
from tifffile import TiffFile

from tilesegment.masks.disk import MARK

KINDS = {".tif": "tiff", ".tiff": "tiff", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
CLASSES = f"{MARK}/classes"  # namespace of the annotation with the names of the classes by id
_LIMIT = 1 << 24  # bytes of text; a thousand times what a record takes


def read_exported(path: Path) -> dict[str, Any] | None:
    """The record in the file `path`; None if it holds none, is none of ours, or ends before its time.

    A JPEG has only the digest of one: `{"digest": ...}`.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        return None
    try:
        text = _tiff_text(path) if kind == "tiff" else _picture_text(path, kind)
        record = None if text is None else {"digest": text} if kind == "jpeg" else json.loads(text)
    except Exception:  # tifffile and Pillow have dozens of ways to refuse a file; whatever it is, it is not ours
        return None
    return record if isinstance(record, dict) else None


def _tiff_text(path: Path) -> str | None:
    with TiffFile(path) as tiff:
        size = tiff.filehandle.size
        description = tiff.pages.first.tags.get("ImageDescription")
        if description is None or description.count > _LIMIT:
            return None
        xml = str(description.value)
        if MARK not in xml or not _holds_all(tiff, size):  # the second looks at every page of a stack
            return None
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:  # entities can blow up to any size
        return None
    return next((one.text for one in ElementTree.fromstring(xml).iterfind(".//{*}M") if one.get("K") == MARK), None)


def _holds_all(tiff: TiffFile, size: int) -> bool:
    """Whether all tiles of all levels lie within the file's `size`."""
    pages = [level for page in tiff.pages for level in (page, *(page.pages or ()))]
    ends = (
        start + length for page in pages for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
    )
    return max(ends, default=size + 1) <= size


def _picture_text(path: Path, kind: str) -> str | None:
    end = b"IEND\xaeB`\x82" if kind == "png" else b"\xff\xd9"
    with path.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        if file.read() != end:
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=(kind.upper(),)) as picture:  # no pixel is decoded
            found = picture.info.get(MARK if kind == "png" else "comment")
    text = found.decode("ascii") if isinstance(found, bytes) else found
    if kind == "jpeg":
        return text.removeprefix(f"{MARK} ") if text is not None and text.startswith(f"{MARK} ") else None
    return text if text is None or len(text) <= _LIMIT else None
