"""The files of pictures: written, recognised, checked beforehand."""

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tilesegment.errors import MaskError
from tilesegment.files import replacing

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_BY = "by tilesegment of "  # in the comment of each picture that may lie among images
PREVIEW, HEATMAP = f"preview {_BY}", f"heat map {_BY}"


def save(picture: Image.Image, path: Path, comment: str = "") -> None:
    """Write a picture atomically, as PNG or JPEG by the suffix of `path`, with `comment` in its metadata.

    Raises:
        MaskError: it cannot be written.
    """
    text = PngInfo()
    if comment:
        text.add_text("comment", comment)
    try:
        with replacing(path) as (partial,):
            # PNG takes pnginfo, JPEG the comment
            picture.save(partial, format=_FORMATS[path.suffix.lower()], pnginfo=text, comment=comment.encode())
    except OSError as error:
        raise MaskError(f"{path} cannot be written ({error}): check the folder and its free space") from error


def comment_of(path: Path) -> str:
    """Return the comment that `save` wrote; empty if there is none, or `path` is no PNG or JPEG."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:  # no pixel is decoded
            comment = picture.info.get("comment", b"")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    return comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)


def is_picture_of_ours(path: Path) -> bool:
    """Whether a file is a preview or a heat map."""
    return _BY in comment_of(path)


def check_picture(path: Path, *, overwrite: bool = True, same: str | None = None) -> None:
    """Check, before a picture is drawn, that it can be written to `path`.

    Args:
        path: file of the picture.
        overwrite: whether any file may be replaced.
        same: a picture whose comment begins with this may be replaced anyway.

    Raises:
        MaskError: a suffix other than .png, .jpg or .jpeg, no writable folder, or a file that must not be replaced.
    """
    if path.suffix.lower() not in _FORMATS:
        raise MaskError(
            f"{path}: a picture is written as {', '.join(_FORMATS)}, not {path.suffix!r}: choose one of these"
        )
    if not path.parent.is_dir():
        raise MaskError(f"{path}: there is no folder {path.parent}; create it, or choose another place")
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise MaskError(f"{path}: the folder {path.parent} cannot be written to; choose another place")
    if path.is_dir() or (path.exists() and not overwrite and not (same and comment_of(path).startswith(same))):
        raise MaskError(f"{path} exists and is another picture; choose another name, or replace it with --overwrite")
