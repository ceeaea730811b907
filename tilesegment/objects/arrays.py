"""Results in a work folder: named arrays in a file, written whole, read with a checksum."""

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from google_crc32c import value as crc32c
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tilesegment.errors import MaskError
from tilesegment.files import make_folder, write_atomically

SUFFIX = ".arrays"
"""Of the files: four bytes of checksum, then a safetensors file, which is read in a tenth of the time of an .npz."""


class DamagedError(MaskError):
    """A result in a work folder was damaged or is missing; now it is missing, and can be made again."""


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, whole or not at all unless power is lost; missing folders are made.

    Raises:
        OSError: it cannot be written.
    """
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    make_folder(path.parent, path.parent.parent)
    # to sync a file takes as long as to label a block
    write_atomically(path, struct.pack("<I", crc32c(content)) + content, durable=False)


def load_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote, all or only these `names`; they cannot be written to.

    Raises:
        DamagedError: it is not there, or was not whole; then it is deleted, so that it is made again.
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        if struct.unpack("<I", content[:4])[0] != crc32c(content[4:]):
            raise ValueError
        found = load(content[4:])
        return found if names is None else {name: found[name] for name in names}
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except (ValueError, KeyError, struct.error, SafetensorError) as error:
        with suppress(FileNotFoundError):  # another thread was faster
            path.unlink()
        raise DamagedError(f"{path} was damaged") from error
