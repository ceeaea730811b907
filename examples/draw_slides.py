"""Draw a slide of any size as an Aperio SVS, a Hamamatsu NDPI or an OME-Zarr.

    python examples/draw_slides.py slide.svs --size 65536

The suffix says which: `.svs` holds JPEG tiles of 256, `.ndpi` one JPEG with restart intervals of 4,096 x 8 pixels,
`.zarr` shards of 2,048 with chunks of 512. All show the same: dark nuclei in pink tissue, RGB, 0.25 um a pixel, a
square of 4,096 pixels that is repeated. A file is made of pieces that are encoded once, in constant memory and in
minutes.
"""

import argparse
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image
from scipy import ndimage
from zarr.codecs import BloscCodec

UNIT = 4096  # pixels: side of the square that is repeated
MICROMETRES = 0.25  # a pixel
TILE = 256  # of the SVS
STRIP = 8  # rows of a restart interval of the NDPI: the height of a JPEG's smallest unit
QUALITY = 75


def draw_unit(side: int = UNIT, seed: int = 0) -> np.ndarray:
    """Draw the square that is repeated, (side, side, 3) uint8; its opposite edges fit together."""
    rng = np.random.default_rng(seed)

    def clouds(sigma: float) -> np.ndarray:
        smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), sigma, mode="wrap")
        return smooth / smooth.std()

    tissue, fibres = clouds(120), clouds(6)
    nuclei = np.clip(clouds(7) * 2 - 2.6, 0, 1)[..., None]
    pink = np.array([226, 170, 205], np.float32) - 14 * fibres[..., None] * np.array([0.5, 1, 0.6], np.float32)
    ground = np.where(tissue[..., None] > -0.8, pink, np.float32(241))
    grain = rng.normal(size=(side, side, 3)).astype(np.float32) * 3
    pixels = ground * (1 - nuclei) + nuclei * np.array([104, 66, 140], np.float32) + grain
    return pixels.clip(0, 255).astype(np.uint8)


def write_svs(path: Path, size: int, unit: np.ndarray) -> None:
    """Write an Aperio SVS of two levels, JPEG tiles as Aperio's own: colours as YCbCr, tables in every tile."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4):
            side, reduced = size // factor, unit[::factor, ::factor]
            reduced = np.tile(reduced, (*[-(-TILE // len(reduced))] * 2, 1))  # at least one tile
            words = (
                f"Aperio Image Library v12.0.0\r\n{side}x{side} JPEG/RGB Q={QUALITY}|AppMag = 40|MPP = {MICROMETRES}"
            )
            writer.write(
                _repeated(reduced, side, lambda y, x, of=reduced: _jpeg(of[y : y + TILE, x : x + TILE])),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                description=words,
                metadata=None,
                software=False,
                subfiletype=int(factor > 1),
            )


def _repeated(unit: np.ndarray, side: int, encode: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield the encoded tiles of an image of `side` pixels, row by row; each tile of the unit is encoded once."""
    period, across = len(unit) // TILE, -(-side // TILE)
    tiles = {(y, x): encode(y * TILE, x * TILE) for y in range(period) for x in range(period)}
    for y in range(across):
        for x in range(across):
            yield tiles[y % period, x % period]


def _jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def write_ndpi(path: Path, size: int, unit: np.ndarray) -> None:
    """Write a Hamamatsu NDPI of one level: a TIFF whose only strip is one JPEG, of any size, with restart markers.

    Tags as OpenSlide's documentation has them, https://openslide.org/formats/hamamatsu/: 65420 marks the format, 65421
    is the magnification, 65426 holds where the intervals begin. A JPEG counts no more than 65,535 pixels a side: the
    size is that of the TIFF.
    """
    side = len(unit)
    assert size % side == 0, f"the size of an NDPI is a multiple of {side}"
    strips = [_jpeg(unit[y : y + STRIP]) for y in range(0, side, STRIP)]
    scan = strips[0].index(b"\xff\xda")
    begin = scan + 2 + int.from_bytes(strips[0][scan + 2 : scan + 4], "big")
    coded = [one[begin:-2] for one in strips]  # all have the tables of the first
    header = _header(strips[0][:begin], size, side // STRIP)
    counts = size // side * size // STRIP
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI4x", b"II", 42, 0))
        start = file.tell()
        file.write(header)
        places = []
        for number in range(counts):
            places.append(file.tell() - start)
            row = number // (size // side)
            file.write(coded[row % len(coded)])
            file.write(b"\xff\xd9" if number == counts - 1 else bytes([0xFF, 0xD0 + number % 8]))
        end = file.tell()
        file.write(b"\0" * (end % 2))
        _directory(file, size, (start, end - start), places)


def _header(start: bytes, size: int, interval: int) -> bytes:
    """Return all before the scan's data, with a restart interval and the size; 0 where a JPEG cannot say it."""
    frame = start.index(b"\xff\xc0")
    shown = size if size <= 65_500 else 0
    sized = start[: frame + 5] + struct.pack(">HH", shown, shown) + start[frame + 9 :]
    return sized[:frame] + struct.pack(">HHH", 0xFFDD, 4, interval) + sized[frame:]


def _directory(file: io.BufferedWriter, size: int, strip: tuple[int, int], places: list[int]) -> None:
    """Write the tags behind the pixels: (tag, type, values), as TIFF 6.0 has them; offsets of NDPI have 64 bits."""
    word, long, signed, text = 3, 4, 9, 2
    formats = {word: "H", long: "I", signed: "i"}
    per_cm = 1e4 / MICROMETRES
    tags = [
        (256, long, [size]),
        (257, long, [size]),
        (258, word, [8, 8, 8]),
        (259, word, [7]),
        (262, word, [6]),
        (271, text, b"Hamamatsu\0"),
        (273, long, [strip[0]]),
        (277, word, [3]),
        (278, long, [size]),
        (279, long, [strip[1]]),
        (282, 5, per_cm),
        (283, 5, per_cm),
        (296, word, [3]),
        (65420, long, [1]),
        (65421, 11, 40.0),
        *((tag, signed, [0]) for tag in (65422, 65423, 65424)),  # x, y and z of the slide's centre
        (65426, long, places),
    ]
    entries = []
    for tag, kind, values in tags:
        if isinstance(values, bytes):
            data, count = values, len(values)
        elif isinstance(values, float):
            data, count = (struct.pack("<II", round(values), 1) if kind == 5 else struct.pack("<f", values)), 1
        else:
            data, count = struct.pack(f"<{len(values)}{formats[kind]}", *values), len(values)
        if len(data) > 4:
            place, data = file.tell(), data + b"\0" * (len(data) % 2)
            file.write(data)
            data = struct.pack("<I", place)
        entries.append(struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0"))
    begin = file.tell()
    # the high halves of 64-bit offsets follow the directory, one for each entry
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<Q", 0) + b"\0" * 4 * len(entries))
    file.seek(4)
    file.write(struct.pack("<Q", begin))


def write_zarr(path: Path, size: int, unit: np.ndarray) -> None:
    """Write an OME-Zarr 0.5 (c, y, x) of one level."""
    scale = [1.0, MICROMETRES, MICROMETRES]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    multiscale = {"name": path.stem, "axes": axes, "datasets": [dataset]}
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [multiscale]}})
    array = zarr.create_array(
        path / "0",
        shape=(3, size, size),
        dtype=np.uint8,
        chunks=(1, 512, 512),
        shards=(3, 2048, 2048),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        dimension_names=["c", "y", "x"],
    )
    planes = unit.transpose(2, 0, 1)
    for y in range(0, size, len(unit)):
        for x in range(0, size, len(unit)):
            array[:, y : y + len(unit), x : x + len(unit)] = planes[:, : size - y, : size - x]


WRITERS = {".svs": write_svs, ".ndpi": write_ndpi, ".zarr": write_zarr}


def draw(path: Path, size: int, unit: np.ndarray | None = None) -> None:
    """Write the slide that the suffix of `path` asks for."""
    WRITERS[path.suffix](path, size, draw_unit(min(size, UNIT)) if unit is None else unit)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="NAME.svs, NAME.ndpi or NAME.zarr")
    parser.add_argument("--size", type=int, default=16384, help="side, pixels; a multiple of 4096 where it is larger")
    given = parser.parse_args()
    draw(given.out, given.size)


if __name__ == "__main__":
    main()
