"""Whether an image is still the one that it was, without reading all of it."""

import hashlib
import json
from pathlib import Path

# bytes and number of the samples of a file: its beginning, its end, and others evenly between
_SAMPLE = 4096
_SAMPLES = 32
_METADATA_LIMIT = 1 << 20  # bytes of a metadata file that are looked at
_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def identity(path: str | Path) -> str:
    """A digest of what tells one image from another: size and samples of a file, the metadata of a Zarr store.

    It stays when the image is copied or touched, and changes when it is exported anew. Single pixels that change, with
    all else as it was, may go unnoticed.
    """
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for file in (folder / name for folder in _folders(path) for name in _METADATA):
            if file.is_file():
                with file.open("rb") as opened:
                    text = _without_copies(opened.read(_METADATA_LIMIT))
                    digest.update(f"{file.relative_to(path)}\n".encode() + text)
        return digest.hexdigest()
    with path.open("rb") as opened:
        size = opened.seek(0, 2)
        digest.update(f"{size}\n".encode())
        last = max(0, size - _SAMPLE)
        for number in range(_SAMPLES):
            opened.seek(last * number // (_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()


def _without_copies(text: bytes) -> bytes:
    """A metadata file without what is consolidated in it: that changes when labels are added."""
    if b'"consolidated_metadata"' not in text:
        return text
    try:
        meta = json.loads(text)
        meta.pop("consolidated_metadata", None)
    except (ValueError, RecursionError, AttributeError):
        return text
    return json.dumps(meta, sort_keys=True).encode()


def _folders(store: Path) -> list[Path]:
    """The folder of a Zarr array, or that of a group with its members; labels are added without changing an image."""
    if (store / ".zarray").exists() or (store / "c").is_dir():
        return [store]
    members = (folder for folder in store.iterdir() if folder.is_dir() and folder.name != "labels")
    return [store, *sorted(members)]
