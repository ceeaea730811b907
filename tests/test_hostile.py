"""Bad, hostile and awkward inputs, through the whole of a prediction: one line of ours, or the right mask."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hostile_files as make
import numcodecs
import numpy as np
import pytest
import torch
from conftest import noise
from hostile_files import BOMB, Case

import tilesegment
from tilesegment.geometry import Region

MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="x/modulo"><Value><Modulo>'
    '<ModuloAlongZ Type="phase" Start="0" End="9e8" Step="1"/></Modulo></Value></XMLAnnotation></StructuredAnnotations>'
)
SECRET = '<TiffData IFD="0"><UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData>'
LEVEL = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}
STRIPS = {"compression": "zlib", "rowsperstrip": 10}
NAN = np.where(noise((60, 70)) > 250, np.nan, 0).astype(np.float32)
COLOURS = np.zeros((3, 256), np.uint16)
COLOUR_MODEL = {"model": "colour.safetensors"}


def flipped(content: bytes) -> bytes:
    """One bit of the weights."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


TIFFS = {f"cut at {n} tenths": Case(make.cut(make.tiff(tile=(32, 32)), n / 10), "image.tif") for n in range(10)}
TIFFS |= {f"strips cut at {n} tenths": Case(make.cut(make.tiff(**STRIPS), n / 10), "image.tif") for n in (3, 6, 9)}
TIFFS |= {
    "nothing there": Case(lambda folder: folder / "no.tif", "does not exist"),
    "an empty file": Case(make.holding("image.tif", ""), "is an empty file"),
    "a text": Case(make.holding("image.tif", "this is no image"), "is not an image"),
    "a magic number of none": Case(make.changed(make.tiff(), lambda c: b"II\x29\0" + c[4:]), "is not an image"),
    "a pipe": Case(make.pipe, "a device or a pipe"),
    "a folder": Case(make.folder_in_place("image.tif"), "is a folder without"),
    "a link to nothing": Case(make.link("no.tif"), "does not exist"),
    "a link to itself": Case(make.link("link.tif"), "cannot be opened"),
    "a zero in the name": Case(lambda folder: folder / "a\0b.tif", "cannot be opened"),
    "a loop of pages": Case(make.next_page(8), "its chain of pages does not end"),
    "a page that is nowhere": Case(make.next_page(10**9), "its chain of pages does not end"),
    "2e9 x 2e9": Case(make.tags(make.tiff(), ImageWidth=2 * 10**9, ImageLength=2 * 10**9), "image.tif", bomb=True),
    "0 x 0": Case(make.tags(make.tiff(), ImageWidth=0, ImageLength=0), "nothing to read"),
    "a huge tile": Case(
        make.tags(make.tiff(tile=(64, 64), compression="zlib"), TileWidth=2**20, TileLength=2**20), "GiB", bomb=True
    ),
    "a strip of 2 GiB": Case(make.one_strip(46_400, 8), "is stored in strips of 2.0 GiB", bomb=True),
    "a raw strip of 2 GiB": Case(
        make.one_strip(46_400, 1), shape=(64, 64), settings={"roi": Region(10**4, 10**4, 10_064, 10_064)}, bomb=True
    ),
    "a tile that inflates": Case(make.tile_bomb, "image.tif is damaged", bomb=True),
    "colours of a map": Case(make.tiff(photometric="palette", colormap=COLOURS), "has a colour map"),
    "16 bits": Case(make.tiff(noise((60, 70), dtype="uint16")), "is uint16"),
    "doubles": Case(make.tiff(noise((60, 70)).astype(np.float64)), "is float64, the model was trained on uint8"),
    "NaN": Case(make.tiff(NAN), "NaN or infinity", model="float.safetensors"),
    "a million planes": Case(make.ome('<TiffData IFD="0" PlaneCount="9999999"/>'), "claims 1e+07 planes", bomb=True),
    "planes without end": Case(make.ome("<TiffData/>", 9 * 10**8), "claims 9e+08 planes", bomb=True),
    "phases without end": Case(make.ome("<TiffData/>", more=MODULO), "claims 9e+08 planes", bomb=True),
    "entities": Case(make.tiff(description='<!DOCTYPE o [<!ENTITY a "aa">]><OME>&a;</OME>'), "document type"),
    "a file elsewhere": Case(make.ome(SECRET)),
    "XML without end": Case(make.ome("<a>" * 10**5)),
    "deep JSON": Case(make.tiff(description='{"shape": ' + "[" * 10**5), "cannot be opened"),
}
FLAT = {
    "EPS": Case(make.holding("image.png", "%!PS-Adobe-3.0 EPSF-3.0\n(canary) (w) file\n"), "is not an image"),
    "a cut PNG": Case(make.cut(make.picture("image.png"), 0.7), "image.png is damaged"),
    "a cut JPEG": Case(make.cut(make.picture("image.jpg"), 0.7), "image.jpg is damaged"),
    "a PNG of 1e9 pixels": Case(make.png(31_000, 31_000, (b"IDAT", b"x")), "million pixels", bomb=True),
    "a PNG of 2e31 a side": Case(make.png(2**31 - 1, 2**31 - 1, (b"IDAT", b"x")), "million pixels", bomb=True),
    "a PNG of 0 x 0": Case(make.png(0, 0, (b"IDAT", b"x")), "image.png"),
    "a PNG whose text inflates": Case(
        make.png(70, 60, (b"zTXt", b"a\0\0" + zlib.compress(BOMB))), "image.png", bomb=True
    ),
    "CMYK": Case(make.picture("image.jpg", mode="CMYK"), "mode CMYK"),
    "a palette of greys": Case(make.picture("image.png", mode="P")),
    "turned by EXIF": Case(make.rotated(), shape=(70, 60)),
    "RGB for grey": Case(make.picture("image.png", noise((60, 70, 3))), "has 3 channels, the model takes 1"),
    "grey for RGB": Case(make.picture("image.png"), "has 1 channel", **COLOUR_MODEL),
}
ZARRS = {
    "an empty folder": Case(make.folder_in_place("image.zarr"), "without a Zarr array"),
    "a shape of 1e15": Case(make.store(2, shape=[10**15, 70]), "claims to be", bomb=True),
    "more bytes than 2^64": Case(make.store(3, shape=[2**62, 2**62]), "claims to be", bomb=True),
    "a shape below 0": Case(make.store(3, shape=[-1, 70]), "damaged Zarr metadata"),
    "chunks of 1e9": Case(make.store(2, chunks=[10**9, 10**9]), "GiB", bomb=True),
    "objects": Case(make.store(2, dtype="|O"), "pixels of type '|O'"),
    "a pickle as a filter": Case(make.store(2, filters=[{"id": "pickle"}]), "compressed with 'pickle'"),
    "axes that are none": Case(make.group(axes=7), "damaged OME-Zarr metadata"),
    "a codec of control characters": Case(
        make.store(2, compressor={"id": "\x1b[2J\n"}), r"compressed with '\x1b[2J\n'"
    ),
    "a level elsewhere": Case(make.group(datasets=[{"path": "../secret", **LEVEL}]), "outside the store"),
    "a level at the root": Case(make.group(datasets=[{"path": "/etc", **LEVEL}]), "outside the store"),
    "a level that is not there": Case(make.group(datasets=[{"path": "1", **LEVEL}]), "is not in it"),
    "a missing chunk": Case(make.stored(Path.unlink)),
    "an empty chunk": Case(make.stored(make.replaced(lambda content: b"")), "is an empty file"),
    "a cut chunk": Case(make.stored(make.replaced(lambda content: content[:50])), "image.zarr is damaged"),
    "a cut raw chunk": Case(make.stored(make.replaced(lambda c: c[:-1]), 3, None), "image.zarr is damaged"),
    "a long raw chunk": Case(make.stored(make.replaced(lambda c: c * 2), 3, None), "image.zarr is damaged"),
    "a folder in place of a chunk": Case(make.stored(make.becomes_folder), "is not a file"),
    "a file in place of chunks": Case(make.stored(make.becomes_file), "is no folder of chunks"),
    "a chunk that links to nothing": Case(make.stored(make.links_to("no/secret")), "is not a file"),
    "a chunk that links elsewhere": Case(make.stored(make.links_to("kept"))),
}
ZARRS |= {
    f"a chunk that inflates, {codec.codec_id}": Case(
        make.stored(make.replaced(lambda content, codec=codec: bytes(codec.encode(BOMB))), 2, codec),
        "image.zarr is damaged",
        bomb=True,
    )
    for codec in (numcodecs.Zstd(), numcodecs.Blosc("zstd"), numcodecs.Zlib())
}
MODELS = {
    f"a model cut at {n} tenths": Case(make.model_file(lambda c, n=n: c[: len(c) * n // 10]), "bad.safe")
    for n in range(0, 10, 3)
}
MODELS |= {
    "weights with a flipped bit": Case(make.model_file(flipped), "SHA-256 differs"),
    "a header of 2^63 bytes": Case(make.model_file(lambda c: b"\0" * 7 + b"\x80" + c[8:]), "not a model"),
    "a header of 200 MB": Case(
        make.claimed("m.safetensors", 200_000_008, (200_000_000).to_bytes(8, "little")), "not a model", bomb=True
    ),
    "a pickle": Case(make.pickled("model.pt", make.plain_pickle), "pickled checkpoint"),
    "a checkpoint": Case(make.pickled("model.pt", torch.save), "pickled checkpoint"),
    "a checkpoint in disguise": Case(make.pickled("model.safetensors", torch.save), "pickled checkpoint"),
    "a checkpoint as ONNX": Case(make.pickled("model.onnx", torch.save), "pickled or zipped checkpoint"),
    "a checkpoint as a package": Case(make.pickled("model.zip", torch.save), "holds no rdf.yaml"),
    "a folder as a model": Case(make.folder_in_place("model.safetensors"), "model.safetensors"),
    "an image as a model": Case(make.tiff(name="model.onnx"), "not an ONNX file"),
    "a zip that climbs": Case(make.zipped({"../evil": "x"}), "outside the package"),
    "a zip that inflates": Case(make.zipped({"rdf.yaml": "a: " + " " * 10**8}), "that is not opened", bomb=True),
    "YAML that runs code": Case(make.yaml_canary, "is not YAML"),
}
MODELS = {name: replace(case, model=None) for name, case in MODELS.items()}
SETTINGS = {
    f"{key} {value}": Case(make.good, key, settings={key: value})
    for key, value in [
        *(("tile", value) for value in (-16, 0, 1, 45, 10**9, 2**63)),
        *(("halo", value) for value in (-1, 10**9)),
        *(("batch", value) for value in (-1, 0)),
        *(("threshold", value) for value in (-1.0, float("nan"))),
        ("level", 99),
        ("level", -1),
        ("z", range(5, 9)),
        ("channels", (7,)),
        ("roi", Region(0, 0, 10**9, 10**9)),
        ("device", "../tpu"),
    ]
}
AWKWARD = {
    f"a name with {what}": Case(make.tiff(name=f"{name}.tif"), out=f"{name}.zarr")
    for what, name in {
        "spaces": " two  spaces ",
        "quotes": 'it\'s "so"',
        "percents": "100%20%s{}",
        "lines": "two\nlines",
        "accents": "naïve-☃-細胞",
        "a hash": "a#b?c=d",
        "a dash": "-rf",
        "markup": "<b>&amp;",
        "dots": "..a..",
    }.items()
}
AWKWARD |= {
    f"{height} x {width}": Case(make.tiff(noise((height, width))), shape=(height, width))
    for height, width in [(1, 1), (1, 97), (97, 1), (2, 3), (97, 89)]
}
AWKWARD |= {
    "a link": Case(make.link("good.tif")),
    "one value": Case(make.tiff(np.full((60, 70), 7, np.uint8))),
    "no tile stored": Case(
        make.tags(make.tiff(tile=(64, 64)), TileOffsets=[0, 0], TileByteCounts=[0, 0]), "not written to its end"
    ),
    "a mask that is a link": Case(make.taken, "mask.zarr", settings={"overwrite": True}),
}
CASES = TIFFS | FLAT | ZARRS | MODELS | SETTINGS | AWKWARD


def state(folder: Path) -> dict[str, object]:
    """All files, links and folders but unfinished masks; of large files only their sizes."""
    found = (path for path in folder.rglob("*") if ".partial" not in str(path))
    return {
        str(path): (os.readlink(path) if path.is_symlink() else "", path.is_file() and _content(path)) for path in found
    }


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
    image, model = (make.good(folder), path) if case.model is None else (path, folder / case.model)
    message_of(lambda: tilesegment.describe(path))
    message = message_of(lambda: tilesegment.predict(image, out, model, **{"tile": 44} | case.settings))
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
    make.models(tmp_path)
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_what_claims_much_takes_little(tmp_path: Path) -> None:
    """All in one process; the first, which is harmless, bears what loading takes."""
    made = {}
    for name, case in ({"a link": CASES["a link"]} | {n: c for n, c in CASES.items() if c.bomb}).items():
        folder = tmp_path / name
        folder.mkdir()
        make.models(folder)
        made[name] = str(case.make(folder))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(made)]
    done = subprocess.run(command, env=environment, timeout=120, check=True, stdout=subprocess.PIPE, text=True)
    costs = json.loads(done.stdout)
    assert costs.keys() == made.keys()
    del costs["a link"]
    assert sum(megabytes for megabytes, _ in costs.values()) < 450, costs
    assert max(seconds for _, seconds in costs.values()) < 20, costs
