"""Pictures: WebP, BMP, PNM and JPEG 2000, as Pillow, OpenJPEG and a text editor write them."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from image_files import Write
from PIL import Image


def picture(suffix: str, **options: Any) -> Write:
    """Writes with Pillow."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        path = folder / f"image.{suffix}"
        Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(path, **options)
        return path

    return write


def jpeg2000(codec: str = "jp2", **options: Any) -> Write:
    """Writes with OpenJPEG."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        path, data = folder / f"image.{codec}", np.ascontiguousarray(pixels.transpose(1, 2, 0).squeeze())
        path.write_bytes(imagecodecs.jpeg2k_encode(data, codecformat=codec, **({"reversible": True} | options)))
        return path

    return write


def plain_pnm(kind: str) -> Write:
    """Writes a PNM by hand: comments, and 16 bits in colour, are beyond what Pillow writes."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        data, white = pixels.transpose(1, 2, 0), 255 if pixels.dtype == np.uint8 else 65535
        head = f"{kind}\n# a comment 1 2\n{pixels.shape[2]} {pixels.shape[1]} # another\n{white}\n".encode()
        text = "\n".join(map(str, data.ravel().tolist())).encode()
        body = text if kind in ("P2", "P3") else data.astype(data.dtype.newbyteorder(">")).tobytes()
        (folder / "image.pnm").write_bytes(head + body)
        return folder / "image.pnm"

    return write
