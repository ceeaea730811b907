"""Bad, hostile and awkward inputs, through the whole of a prediction: one line of ours, or the right mask.

What is read of each format is tested with the formats; here is what no part alone can promise.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import onnx_files
import pytest
import tifffile
import torch
import zarr
from conftest import noise, toy_model
from image_files import write_tiff

import tilesegment
from tilesegment.geometry import Region

Make = Callable[[Path], Path]
PIXELS = noise((60, 70))
BOMB = bytes(100_000_000)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<AnnotationRef ID="A"/><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="70" SizeY="60"'
    ' SizeZ="{}" SizeC="1" SizeT="1">{}</Pixels></Image>{}</OME>'
)
MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="x/modulo"><Value><Modulo>'
    '<ModuloAlongZ Type="phase" Start="0" End="9e8" Step="1"/></Modulo></Value></XMLAnnotation></StructuredAnnotations>'
)


@dataclass(frozen=True)
class Case:
    """What is given to `predict`, and what is to come of it.

    Attributes:
        make: writes the input into a folder; its path.
        refused: in the message with which it is refused; empty if it is predicted.
        shape: of the mask that it gives.
        settings: of the prediction.
        is_model: whether the input is a model, else an image.
        out: name of the mask.
        bomb: whether it claims, or is, far more than the file holds.
    """

    make: Make
    refused: str = ""
    shape: tuple[int, int] = (60, 70)
    settings: dict[str, Any] = field(default_factory=dict)
    is_model: bool = False
    out: str = "mask.zarr"
    bomb: bool = False


def models(folder: Path) -> None:
    """Toy models and an image that there is nothing wrong with."""
    toy_model(depth=1, base=1).save(folder / "grey.safetensors")
    toy_model(depth=1, base=1, dtype="float32").save(folder / "float.safetensors")
    tifffile.imwrite(folder / "good.tif", PIXELS)


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def good(folder: Path) -> Path:
    return folder / "good.tif"


def tiff(pixels: np.ndarray = PIXELS, name: str = "image.tif", tags: dict[str, Any] | None = None, **more: Any) -> Make:
    """A TIFF, tags of which are overwritten."""

    def make(folder: Path) -> Path:
        path = write_tiff(folder / name, pixels, **more)
        for tag, value in (tags or {}).items():
            with tifffile.TiffFile(path, mode="r+") as file:
                file.pages.first.tags[tag].overwrite(value)
        return path

    return make


def claimed(name: str, size: int, start: bytes) -> Make:
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
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["TileOffsets"].overwrite([len(content)])
        file.pages.first.tags["TileByteCounts"].overwrite([len(bomb)])
    return path


def png(side: int, *chunks: tuple[bytes, bytes]) -> Make:
    """A grey PNG of these chunks, whatever it claims to be."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]
    )
    return holding("image.png", b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def holding(name: str, content: bytes) -> Make:
    """A file of this content."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def store(version: int = 3, codec: Any = "auto", chunk: Callable[[Path], object] | None = None, **meta: Any) -> Make:
    """A Zarr array, one of its chunks and entries of its metadata changed."""

    def make(folder: Path) -> Path:
        path = folder / "image.zarr"
        zarr.create_array(path, data=PIXELS, chunks=(32, 32), zarr_format=version, compressors=codec)
        file = path / (".zarray" if version == 2 else "zarr.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | meta))
        if chunk is not None:
            chunk(path / ("1.1" if version == 2 else "c/1/1"))
        return path

    return make


def link_to(target: str) -> Callable[[Path], None]:
    """Puts a link in place of a chunk, to a file beside the store."""

    def change(chunk: Path) -> None:
        outside = chunk.parents[3] / target
        if outside.parent.is_dir():
            outside.write_bytes(chunk.read_bytes())
        chunk.unlink()
        chunk.symlink_to(outside)

    return change


def becomes_folder(chunk: Path) -> None:
    chunk.unlink()
    chunk.mkdir()


def becomes_file(chunk: Path) -> None:
    """Puts a file in place of the folder that a chunk lies in."""
    for sibling in chunk.parent.iterdir():
        sibling.unlink()
    chunk.parent.rmdir()
    chunk.parent.touch()


def model_file(change: Callable[[bytes], bytes]) -> Make:
    """A model whose bytes are changed."""
    return lambda folder: holding("bad.safetensors", change((folder / "grey.safetensors").read_bytes()))(folder)


def pickled(name: str, save: Callable[[Any, Path], object] = torch.save) -> Make:
    """A checkpoint with a canary in it."""

    def make(folder: Path) -> Path:
        save({"weight": torch.zeros(3), "more": Canary(folder / "canary")}, folder / name)
        return folder / name

    return make


def zipped(name: str, content: str) -> Make:
    """A package of one file; `FOLDER` in it stands for the folder."""

    def make(folder: Path) -> Path:
        text = content.replace("FOLDER", str(folder)).encode()
        return holding("model.zip", onnx_files.zipped({name: text}))(folder)

    return make


def link(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(folder / target)
        return folder / name

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


HUGE = {"ImageWidth": 2 * 10**9, "ImageLength": 2 * 10**9}
RAW = {"roi": Region(10**4, 10**4, 10_064, 10_064)}
CASES = {
    "a pipe": Case(pipe, "a device or a pipe"),
    "a link": Case(link("link.tif", "good.tif")),
    "a link to nothing": Case(link("link.tif", "no.tif"), "does not exist"),
    "a link to itself": Case(link("link.tif", "link.tif"), "cannot be opened"),
    "a zero in the name": Case(lambda folder: folder / "a\0b.tif", "cannot be opened"),
    "a mask that is a link": Case(taken, "mask.zarr", settings={"overwrite": True}),
    "2e9 x 2e9": Case(tiff(tags=HUGE), "image.tif", bomb=True),
    "a huge tile": Case(
        tiff(tags={"TileWidth": 2**20, "TileLength": 2**20}, tile=(64, 64), compression="zlib"), "GiB", bomb=True
    ),
    "a strip of 2 GiB": Case(one_strip(46_400, 8), "strips of 2.0 GiB", bomb=True),
    "a raw strip of 2 GiB": Case(one_strip(46_400, 1), shape=(64, 64), settings=RAW, bomb=True),
    "a tile that inflates": Case(tile_bomb, "image.tif is damaged", bomb=True),
    "16 bits": Case(tiff(noise((60, 70), dtype="uint16")), "is uint16"),
    "NaN": Case(
        tiff(np.where(PIXELS > 250, np.nan, 0).astype(np.float32)), "NaN", settings={"model": "float.safetensors"}
    ),
    "colours for grey": Case(tiff(noise((60, 70, 3)), photometric="rgb"), "has 3 channels, the model takes 1"),
    "a million planes": Case(
        tiff(description=OME.format(1, '<TiffData IFD="0" PlaneCount="9999999"/>', "")), "1e+07 planes", bomb=True
    ),
    "phases without end": Case(
        tiff(description=OME.format(1, "<TiffData/>", MODULO)), "claims 9e+08 planes", bomb=True
    ),
    "XML without end": Case(tiff(description=OME.format(1, "<a>" * 10**5, ""))),
    "deep JSON": Case(tiff(description='{"shape": ' + "[" * 10**5), "cannot be opened"),
    "a PNG of 1e9 pixels": Case(png(31_000, (b"IDAT", b"x")), "million pixels", bomb=True),
    "a PNG of 2e31 a side": Case(png(2**31 - 1, (b"IDAT", b"x")), "million pixels", bomb=True),
    "a PNG whose text inflates": Case(png(60, (b"zTXt", b"a\0\0" + zlib.compress(BOMB))), "image.png", bomb=True),
    "a shape of 1e15": Case(store(2, shape=[10**15, 70]), "claims to be", bomb=True),
    "chunks of 1e9": Case(store(2, chunks=[10**9, 10**9]), "GiB", bomb=True),
    "a codec of control characters": Case(store(2, compressor={"id": "\x1b[2J\n"}), r"compressed with '\x1b[2J\n'"),
    "a missing chunk": Case(store(chunk=Path.unlink)),
    "a folder in place of a chunk": Case(store(chunk=becomes_folder), "is not a file"),
    "a file in place of chunks": Case(store(chunk=becomes_file), "is no folder of chunks"),
    "a chunk that links to nothing": Case(store(chunk=link_to("no/secret")), "is not a file"),
    "a chunk that links elsewhere": Case(store(chunk=link_to("kept"))),
}
CASES |= {
    f"a chunk that inflates, {codec.codec_id}": Case(
        store(2, codec, lambda chunk, codec=codec: chunk.write_bytes(bytes(codec.encode(BOMB)))),
        "image.zarr is damaged",
        bomb=True,
    )
    for codec in (numcodecs.Zstd(), numcodecs.Blosc("zstd"), numcodecs.Zlib())
}
MODELS = {
    "a model that is cut": (model_file(lambda c: c[: len(c) // 2]), "bad.safetensors"),
    "weights with a flipped bit": (model_file(lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:]), "SHA-256 differs"),
    "a header of 2^63 bytes": (model_file(lambda c: b"\0" * 7 + b"\x80" + c[8:]), "not a model"),
    "a header of 200 MB": (claimed("m.safetensors", 200_000_008, (200_000_000).to_bytes(8, "little")), "not a model"),
    "a pickle": (pickled("model.pt", lambda content, path: path.write_bytes(pickle.dumps(content))), "pickled"),
    "a checkpoint in disguise": (pickled("model.safetensors"), "pickled checkpoint"),
    "a checkpoint as ONNX": (pickled("model.onnx"), "pickled or zipped checkpoint"),
    "a checkpoint as a package": (pickled("model.zip"), "holds no rdf.yaml"),
    "an image as a model": (tiff(name="model.onnx"), "not an ONNX file"),
    "a zip that climbs": (zipped("../evil", "x"), "outside the package"),
    "a zip that inflates": (zipped("rdf.yaml", "a: " + " " * 10**8), "that is not opened"),
    "YAML that runs code": (zipped("rdf.yaml", "!!python/object/apply:os.mkdir ['FOLDER/canary']"), "is not YAML"),
}
BOMBS = ("a header of 200 MB", "a zip that inflates")
CASES |= {name: Case(make, words, is_model=True, bomb=name in BOMBS) for name, (make, words) in MODELS.items()}
CASES |= {
    f"{key} {value}": Case(good, key, settings={key: value})
    for key, value in [
        ("tile", 2**63),
        ("halo", 10**9),
        ("threshold", float("nan")),
        ("device", "../tpu"),
        ("batch", 0),
    ]
}
NAMES = (
    " two  spaces ",
    'it\'s "so"',
    "100%20%s{}",
    "two\nlines",
    "naïve-☃-細胞",
    "a#b?c=d",
    "-rf",
    "<b>&amp;",
    "..a..",
)
CASES |= {f"a name such as {n!r}": Case(tiff(name=f"{n}.tif"), out=f"{n}.zarr") for n in NAMES}
CASES |= {f"{h} x {w}": Case(tiff(noise((h, w))), shape=(h, w)) for h, w in [(1, 1), (1, 97), (97, 1), (97, 89)]}


def state(folder: Path) -> dict[str, object]:
    """All files, links and folders but unfinished masks; of large files only their sizes."""
    found = (path for path in folder.rglob("*") if ".partial" not in str(path))
    return {str(p): (os.readlink(p) if p.is_symlink() else "", p.is_file() and _content(p)) for p in found}


def _content(path: Path) -> bytes | int:
    size = path.stat().st_size
    return path.read_bytes() if size < 10**7 else size


def message_of(ask: Callable[[], object]) -> str:
    """The line with which `ask` is refused; empty if it is not."""
    message = ""
    try:
        ask()
    except tilesegment.TilesegmentError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    return message


def attempt(folder: Path, path: Path, case: Case) -> str:
    """The message with which `path` is refused, nothing having changed; empty if a mask of it was made."""
    before, out = state(folder), folder / case.out
    settings = {"tile": 44, "model": "grey.safetensors"} | case.settings
    image, model = (good(folder), path) if case.is_model else (path, folder / settings.pop("model"))
    settings.pop("model", None)
    message_of(lambda: tilesegment.describe(path))
    message = message_of(lambda: tilesegment.predict(image, out, model, **settings))
    after = state(folder)
    if message:
        assert after == before
    else:
        assert {name: content for name, content in after.items() if not name.startswith(str(out))} == before
        mask = tilesegment.open_mask(out)
        assert mask.spec.shape == mask.read(Region.of_shape(case.shape)).shape == case.shape
    return message


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_refused_in_one_line_or_predicted(tmp_path: Path, case: Case) -> None:
    models(tmp_path)
    message = attempt(tmp_path, case.make(tmp_path), case)
    assert case.refused in message
    assert bool(message) == bool(case.refused)


PROGRAM = """
import json, sys, time
from pathlib import Path
from test_hostile import CASES, attempt
from tilesegment.prediction.result import peak_memory

made = json.loads(sys.argv[1])
costs = {}
for name, path in made.items():
    start, before = time.monotonic(), peak_memory()
    attempt(Path(path).parent, Path(path), CASES[name])
    costs[name] = [(peak_memory() - before) / 1e6, time.monotonic() - start]
print(json.dumps(costs))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_what_claims_much_takes_little(tmp_path: Path) -> None:
    """All in one process; the first, which is harmless, bears what loading takes."""
    made = {}
    for name, case in ({"a link": CASES["a link"]} | {n: c for n, c in CASES.items() if c.bomb}).items():
        folder = tmp_path / name
        folder.mkdir()
        models(folder)
        made[name] = str(case.make(folder))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(made)]
    done = subprocess.run(command, env=environment, timeout=120, check=True, stdout=subprocess.PIPE, text=True)
    costs = json.loads(done.stdout)
    assert costs.keys() == made.keys()
    del costs["a link"]
    assert sum(megabytes for megabytes, _ in costs.values()) < 450, costs
    assert max(seconds for _, seconds in costs.values()) < 20, costs
