"""What makes bad, hostile and awkward inputs of a prediction, each in a folder where `models` has been called."""

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_files
import tifffile
import torch
import zarr
from conftest import noise, toy_model
from image_files import multiscales
from PIL import Image

Make = Callable[[Path], Path]
PIXELS = noise((60, 70))
BOMB = bytes(100_000_000)
STORE = "image.zarr"


@dataclass(frozen=True)
class Case:
    """What is given to `predict`, and what is to come of it.

    Attributes:
        make: writes the input into a folder; its path.
        refused: in the message with which it is refused; empty if it is predicted.
        shape: of the mask that it gives.
        settings: of the prediction.
        model: name of the model, of those that `models` writes; None if the input is one itself.
        out: name of the mask.
        bomb: whether it claims, or is, far more than the file holds.
    """

    make: Make
    refused: str = ""
    shape: tuple[int, int] = (60, 70)
    settings: dict[str, Any] = field(default_factory=dict)
    model: str | None = "grey.safetensors"
    out: str = "mask.zarr"
    bomb: bool = False


def models(folder: Path) -> None:
    """Toy models, of one channel but for the third, and an image that there is nothing wrong with."""
    toy_model(depth=1, base=1).save(folder / "grey.safetensors")
    toy_model(depth=1, base=1, dtype="float32").save(folder / "float.safetensors")
    toy_model(depth=1, base=1, channels=3).save(folder / "colour.safetensors")
    tifffile.imwrite(folder / "good.tif", PIXELS)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def holding(name: str, content: bytes | str) -> Make:
    """A file of this content."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def changed(make: Make, change: Callable[[bytes], bytes]) -> Make:
    """The file that `make` makes, its content changed."""

    def make_changed(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make_changed


def cut(make: Make, share: float) -> Make:
    """The first part of the file that `make` makes."""
    return changed(make, lambda content: content[: int(share * len(content))])


def tiff(pixels: np.ndarray = PIXELS, name: str = "image.tif", **options: Any) -> Make:
    """A TIFF."""

    def make(folder: Path) -> Path:
        tifffile.imwrite(folder / name, pixels, **{"metadata": None} | options)
        return folder / name

    return make


def tags(make: Make, **values: Any) -> Make:
    """The TIFF that `make` makes, tags of its first page overwritten."""

    def make_tags(folder: Path) -> Path:
        path = make(folder)
        for name, value in values.items():
            with tifffile.TiffFile(path, mode="r+") as file:
                file.pages.first.tags[name].overwrite(value)
        return path

    return make_tags


def next_page(offset: int) -> Make:
    """A TIFF whose only page names another one: itself at 8, or one that is not there."""

    def change(content: bytes) -> bytes:
        end = 8 + 2 + 12 * int.from_bytes(content[8:10], "little")
        return content[:end] + offset.to_bytes(4, "little") + content[end + 4 :]

    return changed(tiff(), change)


def ome(inner: str, planes: int = 1, more: str = "") -> Make:
    """An OME-TIFF of one page whose XML says what it likes."""
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<AnnotationRef ID="A"/><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="70" SizeY="60"'
        f' SizeZ="{planes}" SizeC="1" SizeT="1">{inner}</Pixels></Image>{more}</OME>'
    )
    return tiff(description=xml)


def claimed(name: str, size: int, start: bytes = b"") -> Make:
    """A file of `size` bytes, of which only `start` takes room on the disk."""

    def make(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(size)
        return folder / name

    return make


def one_strip(side: int, compression: int) -> Make:
    """A TIFF of `side` x `side` pixels in one strip; its pixels take no room on the disk."""
    entries = [(256, side), (257, side), (258, 8), (259, compression), (262, 1), (273, 200), (277, 1), (278, side)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*entries, (279, side**2)])
    return claimed("image.tif", 200 + side**2, b"II*\0" + struct.pack("<IH", 8, 9) + directory + bytes(4))


def tile_bomb(folder: Path) -> Path:
    """A tile of 64 x 64 pixels that inflates to 100 MB."""
    path = tiff(noise((64, 64)), tile=(64, 64), compression="zlib")(folder)
    content, bomb = path.read_bytes(), zlib.compress(BOMB)
    path.write_bytes(content + bomb)
    return tags(lambda folder: path, TileOffsets=[len(content)], TileByteCounts=[len(bomb)])(folder)


def picture(name: str, pixels: np.ndarray = PIXELS, mode: str | None = None, **options: Any) -> Make:
    """A PNG or JPEG."""

    def make(folder: Path) -> Path:
        image = Image.fromarray(pixels)
        (image if mode is None else image.convert(mode)).save(folder / name, **options)
        return folder / name

    return make


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> Make:
    """A grey PNG of these chunks, whatever it claims to be."""
    every = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks, (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in every
    )
    return holding("image.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def rotated() -> Make:
    """A JPEG that is to be shown turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("image.jpg", exif=exif)


def store(zarr_format: int = 3, codec: Any = "auto", **changes: Any) -> Make:
    """A Zarr array, entries of its metadata changed."""

    def make(folder: Path) -> Path:
        path = folder / STORE
        zarr.create_array(path, data=PIXELS, chunks=(32, 32), zarr_format=zarr_format, compressors=codec)
        meta = path / (".zarray" if zarr_format == 2 else "zarr.json")
        meta.write_text(json.dumps(json.loads(meta.read_text()) | changes))
        return path

    return make


def stored(change: Callable[[Path], object], zarr_format: int = 3, codec: Any = "auto") -> Make:
    """A Zarr array, one of its chunks changed."""

    def make(folder: Path) -> Path:
        path = store(zarr_format, codec)(folder)
        change(path / ("1.1" if zarr_format == 2 else "c/1/1"))
        return path

    return make


def replaced(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Changes the content of a chunk."""
    return lambda chunk: chunk.write_bytes(change(chunk.read_bytes()))


def links_to(target: str) -> Callable[[Path], None]:
    """Puts a link in place of a chunk, to a file beside the store."""

    def change(chunk: Path) -> None:
        outside = chunk.parents[3] / target
        if outside.parent.is_dir():
            outside.write_bytes(chunk.read_bytes())
        chunk.unlink()
        chunk.symlink_to(outside)

    return change


def becomes_folder(chunk: Path) -> None:
    """Puts a folder in place of a chunk."""
    chunk.unlink()
    chunk.mkdir()


def becomes_file(chunk: Path) -> None:
    """Puts a file in place of the folder that a chunk lies in."""
    for sibling in chunk.parent.iterdir():
        sibling.unlink()
    chunk.parent.rmdir()
    chunk.parent.touch()


def group(**change: Any) -> Make:
    """An OME-Zarr image, its description changed; beside it lies a secret."""

    def make(folder: Path) -> Path:
        image = multiscales("yx", 1, 1.0) | change
        zarr.open_group(folder / STORE, mode="w", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        for place in (folder / STORE / "0", folder / "secret"):
            zarr.create_array(place, data=PIXELS, chunks=(32, 32))
        return folder / STORE

    return make


def model_file(change: Callable[[bytes], bytes]) -> Make:
    """A model whose bytes are changed."""

    def make(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        path.write_bytes(change((folder / "grey.safetensors").read_bytes()))
        return path

    return make


def pickled(name: str, save: Callable[[Any, Path], object]) -> Make:
    """A checkpoint with a canary in it."""

    def make(folder: Path) -> Path:
        save({"weight": torch.zeros(3), "more": Canary(folder / "canary")}, folder / name)
        return folder / name

    return make


def plain_pickle(content: Any, path: Path) -> None:
    """Without torch's own format."""
    path.write_bytes(pickle.dumps(content))


def zipped(files: dict[str, str]) -> Make:
    """A package of these files."""

    def make(folder: Path) -> Path:
        (folder / "model.zip").write_bytes(onnx_files.zipped({name: text.encode() for name, text in files.items()}))
        return folder / "model.zip"

    return make


def yaml_canary(folder: Path) -> Path:
    """A package whose description makes a folder where YAML is taken for code."""
    return zipped({"rdf.yaml": f"!!python/object/apply:os.mkdir ['{folder / 'canary'}']"})(folder)


def good(folder: Path) -> Path:
    """An image that there is nothing wrong with."""
    return folder / "good.tif"


def link(target: str) -> Make:
    """An image that is a link."""

    def make(folder: Path) -> Path:
        (folder / "link.tif").symlink_to(folder / target)
        return folder / "link.tif"

    return make


def taken(folder: Path) -> Path:
    """The mask's place is a link to a folder of somebody else's files."""
    (folder / "precious").mkdir()
    (folder / "precious" / "file").write_text("mine")
    (folder / "mask.zarr").symlink_to(folder / "precious")
    return good(folder)


def pipe(folder: Path) -> Path:
    """What a reader waits at for ever."""
    os.mkfifo(folder / "image.tif")
    return folder / "image.tif"


def folder_in_place(name: str) -> Make:
    """An empty folder where a file is expected."""

    def make(folder: Path) -> Path:
        os.mkdir(folder / name)
        return folder / name

    return make
