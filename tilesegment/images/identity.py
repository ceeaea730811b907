"""Whether an image is still the one that it was, without reading all of a large one."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tilesegment.errors import ImageError

_WHOLE = 64 << 20  # bytes of an image up to which all of it is read
_SAMPLES = 512  # of a larger one, so many samples are read, evenly spread over all that it stores
_OPENED = 1024  # files up to which a store is read whole: opening one takes longer than listing it
_SAMPLE = 4096  # bytes
_FORMER_SAMPLES = 32
_METADATA_LIMIT = 1 << 20  # bytes of a metadata file that are looked at
_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
_LABELS = "labels"  # added without changing the image


@dataclass(frozen=True)
class Identity:
    """What tells an image from another one, and from what it was before it was changed.

    Attributes:
        digest: SHA-256 of the names and sizes of its files, of metadata, and of what was read of their content.
        exact: whether all of the content was read; else a change may hide between the samples.
        written: newest modification time of its files, ISO 8601 in UTC.
    """

    digest: str
    exact: bool
    written: str


@dataclass(frozen=True)
class _File:
    """A stored file: its name relative to the image, its path and size."""

    name: str
    path: str
    size: int


def identity(path: str | Path) -> Identity:
    """What is stored of an image: a file, or a Zarr store with its chunks.

    The digest stays when the image is copied or touched, whatever times the copies have, and when labels are added to
    it. It changes with the name, number or size of its files, and with any byte of an image of up to 64 MiB in up to
    1,024 files. Of larger ones 512 samples of 4 KiB are read: the cost is that of a listing.

    Raises:
        ImageError: some of it cannot be read.
    """
    times: list[int] = []
    try:
        files = list(_files(Path(path), times))
        size = sum(file.size for file in files)
        exact = size <= _WHOLE and len(files) <= _OPENED
        names = "".join(f"{file.name}\t{file.size}\n" for file in files)
        digest = hashlib.sha256(names.encode(errors="surrogateescape"))
        for content in _contents(files) if exact else _sampled(files, size):
            digest.update(content)
    except OSError as error:
        raise ImageError(
            f"{error.filename or path} cannot be read ({error.strerror}): see to its permissions"
        ) from error
    written = datetime.fromtimestamp(max(times, default=0) / 1e9, UTC).isoformat()
    return Identity(digest.hexdigest(), exact, written)


def former_identity(path: str | Path) -> str:
    """The digest by which earlier releases knew an image: samples of a file, the metadata alone of a Zarr store."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for file in (folder / name for folder in _former_folders(path) for name in _METADATA):
            if file.is_file():
                with file.open("rb") as opened:
                    digest.update(f"{file.relative_to(path)}\n".encode() + opened.read(_METADATA_LIMIT))
        return digest.hexdigest()
    with path.open("rb") as opened:
        size = opened.seek(0, 2)
        digest.update(f"{size}\n".encode())
        last = max(0, size - _SAMPLE)
        for number in range(_FORMER_SAMPLES):
            opened.seek(last * number // (_FORMER_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()


def _files(path: Path, times: list[int]) -> Iterator[_File]:
    """The files of an image in order of their names; of a store without its labels. Their times go into `times`."""
    if not path.is_dir():
        state = path.stat()
        times.append(state.st_mtime_ns)
        yield _File("", str(path), state.st_size)
        return
    yield from _stored(str(path), "", times, {os.path.realpath(path)})


def _stored(folder: str, prefix: str, times: list[int], entered: set[str]) -> Iterator[_File]:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = prefix + entry.name
        if entry.is_dir():
            if entry.name == _LABELS or entry.name.endswith(".partial"):
                continue
            if entry.is_symlink():  # which may lead in a circle
                target = os.path.realpath(entry.path)
                if target in entered:
                    continue
                entered.add(target)
            yield from _stored(entry.path, f"{name}/", times, entered)
        elif entry.name in _METADATA:
            yield _File(f"{name} {_digest_of_metadata(entry.path)}", entry.path, 0)
        elif not entry.name.startswith(".") and not entry.name.endswith(".partial"):
            try:
                state = entry.stat()
            except FileNotFoundError:  # a link to nothing is as good as no file
                continue
            times.append(state.st_mtime_ns)
            yield _File(name, entry.path, state.st_size)


def _digest_of_metadata(path: str) -> str:
    """Of a metadata file, without what is consolidated in it: that changes when labels are added."""
    with open(path, "rb") as file:
        text = file.read(_METADATA_LIMIT)
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if isinstance(meta, dict):
        meta.pop("consolidated_metadata", None)
        text = json.dumps(meta, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()


def _contents(files: Iterable[_File]) -> Iterator[bytes]:
    for file in files:
        if file.size:
            with open(file.path, "rb") as opened:
                while content := opened.read(1 << 20):
                    yield content


def _sampled(files: list[_File], size: int) -> Iterator[bytes]:
    """Samples at even distances of all files, as if they were one; a sample ends with its file."""
    if size == 0:
        return
    remaining = iter(files)
    file, begin = next(remaining), 0
    last = max(size - _SAMPLE, 0)
    for number in range(_SAMPLES):
        place = last * number // (_SAMPLES - 1)
        while place >= begin + file.size:
            begin += file.size
            file = next(remaining)
        with open(file.path, "rb") as opened:
            opened.seek(place - begin)
            yield opened.read(_SAMPLE)


def _former_folders(store: Path) -> list[Path]:
    """The folder of a Zarr array, or that of a group with its members but for labels."""
    if (store / ".zarray").exists() or (store / "c").is_dir():
        return [store]
    members = (folder for folder in store.iterdir() if folder.is_dir() and folder.name != _LABELS)
    return [store, *sorted(members)]
