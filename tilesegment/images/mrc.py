"""MRC, the format of electron microscopy: MRC2014, CCP4 maps, stacks of SerialEM and IMOD.

The first row that is stored is y=0, as mrcfile, RELION and napari have it, not the last one as in IMOD, whose windows
and TIFFs show the image upside down. So masks lie on the image in those programs.
"""

import math
import os
import warnings
from typing import Any

import mrcfile
import numpy as np

from tilesegment.errors import ImageError, one_line
from tilesegment.images.layout import Choices, arrange, chosen_series, note_on_inversion
from tilesegment.images.raw import RawSource, Storage
from tilesegment.images.source import Shown
from tilesegment.metadata import UNKNOWN_FRAME, Frame, Spacing

_HEADER = 1024  # bytes
_VOLUMES = 401  # the first of the space groups that stand for a stack of volumes
# type of a sample, samples and bits of a pixel; IMOD has added RGB and half bytes
_MODES: dict[int, tuple[str, int, int]] = {
    0: ("i1", 1, 8),
    1: ("i2", 1, 16),
    2: ("f4", 1, 32),
    6: ("u2", 1, 16),
    12: ("f2", 1, 16),
    16: ("u1", 3, 24),
    101: ("u1", 1, 4),
}
_COMPLEX = (3, 4)
_IMOD = b"IMOD"  # its mark, in the byte order of the file, before flags of which the first means signed bytes


def open_mrc(path: str, choices: Choices) -> RawSource:
    """Open an MRC without reading a pixel; the sections of a stack or volume are z planes.

    Raises:
        ImageError: it is truncated, complex, or its header is damaged.
    """
    chosen_series(path, choices.series, ())
    header, notes = _header(path)
    storage = _storage(path, header, notes)
    shape = nz, ny, nx = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    _check_size(path, header, storage, notes)
    names = "zyx"
    if int(header["ispg"]) >= _VOLUMES and (volumes := max(int(header["mz"]), 1)) < nz and nz % volumes == 0:
        names, shape = "tzyx", (nz // volumes, volumes, ny, nx)
    if storage.samples > 1:
        names, shape = names + "s", (*shape, storage.samples)
    axes = names if choices.axes is None else choices.axes
    layout = arrange(path, tuple(axes), shape, choices.select)
    if axes.find("yx") != names.find("yx"):
        raise ImageError(f"{path} is stored section by section, as {names}: --axes {axes} does not have its y and x")
    notes += note_on_inversion(path, choices.invert)
    return RawSource(path, "MRC", storage, layout, _frame(path, header, notes), Shown(notes=notes))


def _header(path: str) -> tuple[Any, list[str]]:
    """Read the header, in the byte order that it is written in, and what mrcfile doubts of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            header = file.header.copy()
    if min(int(header[name]) for name in ("nx", "ny", "nz")) < 1 or int(header["nsymbt"]) < 0:
        raise ImageError(f"{path} is no MRC, or its header is damaged: it has sections of no size")
    return header, [f"{path}: {one_line(one.message, 200)}" for one in caught]


def _storage(path: str, header: Any, notes: list[str]) -> Storage:
    """Return how the pixels are stored."""
    mode = int(header["mode"])
    if mode not in _MODES:
        kind = "complex numbers, a Fourier transform" if mode in _COMPLEX else "which is unknown"
        raise ImageError(
            f"{path} is an MRC of mode {mode}, {kind}; modes {', '.join(map(str, _MODES))} are read: "
            "convert it with newstack -mode 2 of IMOD"
        )
    name, samples, bits = _MODES[mode]
    if mode == 0:
        name = _bytes_of(path, header, notes)
    dtype = np.dtype(name).newbyteorder(header["mode"].dtype.byteorder)
    unpack = _half_bytes if mode == 101 else None
    return Storage(_HEADER + int(header["nsymbt"]), dtype, samples, bits, unpack)


def _bytes_of(path: str, header: Any, notes: list[str]) -> str:
    """Return whether bytes are signed, as the standard has it, or not, as IMOD marks them and others write them."""
    extra = header["extra2"].tobytes()  # bytes 112 to 195 of the header; IMOD's mark is at 152
    if extra[40:44] in (_IMOD, _IMOD[::-1]):
        flags = int.from_bytes(extra[44:48], "big" if extra[40:44] == _IMOD[::-1] else "little")
        return "i1" if flags & 1 else "u1"
    if float(header["dmin"]) >= 0 and float(header["dmax"]) > 127:
        notes.append(f"{path} has values up to {float(header['dmax']):g}: its bytes are taken for unsigned")
        return "u1"
    notes.append(f"{path} holds bytes, taken for signed as MRC2014 has it: they are read as float32")
    return "i1"


def _half_bytes(rows: np.ndarray) -> np.ndarray:
    """Return pixels of 4 bits, the lower half of a byte first."""
    shifts = np.tile(np.array([0, 4], np.uint8), rows.shape[1])
    return rows.repeat(2, axis=1) >> shifts & 15


def _check_size(path: str, header: Any, storage: Storage, notes: list[str]) -> None:
    """Compare what the header claims with the size of the file."""
    nz, ny, nx = (int(header[name]) for name in ("nz", "ny", "nx"))
    needed, there = storage.offset + nz * ny * storage.row_bytes(nx), os.path.getsize(path)
    if there != needed and header["map"].tobytes()[:3] != b"MAP":
        raise ImageError(f"{path} is no MRC, or damaged: it has no mark of one, and its size does not fit its header")
    if there < needed:
        raise ImageError(
            f"{path} is truncated: it has {there:,} of {needed:,} bytes for {nz} sections of {ny} x {nx}: copy it again"
        )
    if there > needed:
        notes.append(f"{path} has {there - needed:,} bytes more than its header tells of: they are not read")


def _frame(path: str, header: Any, notes: list[str]) -> Frame:
    """Return the frame by the size of the cell; unknown if the header does not tell it."""
    axes = [int(header[name]) for name in ("maps", "mapr", "mapc")]  # of sections, rows and columns: 1 is x
    names = ["xyz"[n - 1] for n in axes] if sorted(axes) == [1, 2, 3] else list("zyx")
    counts = [int(header["m" + name]) for name in names]
    sides = [
        float(header["cella"][name]) / count if count > 0 else 0.0 for name, count in zip(names, counts, strict=True)
    ]
    if not all(math.isfinite(side) and side > 0 for side in sides[1:]):
        return UNKNOWN_FRAME
    if sides[1] == sides[2] == 1:
        notes.append(
            f"{path} says that its pixels are 1 angstrom, as programs write that do not know it: --source-mpp tells"
        )
    z, y, x = (Spacing(side, unit="angstrom") if math.isfinite(side) and side > 0 else Spacing() for side in sides)
    return Frame(z, y, x)
