"""Recognise an image and changes of it, without reading all of a large one."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import UnsupportedOperation
from pathlib import Path

from tilesegment.errors import DeniedError, ImageError
from tilesegment.images.companions import companions
from tilesegment.images.datasets import split_dataset
from tilesegment.ome_zarr.multiscale import multiscale_names, read_multiscale
from tilesegment.ome_zarr.node import METADATA, Node, read_node
from tilesegment.stores import Entry, Location, Store, store_at

_METADATA_LIMIT = 1 << 20  # bytes of a metadata file that are looked at
_LABELS = "labels"  # added without changing the image


@dataclass(frozen=True)
class Identity:
    """What distinguishes an image from others, and from itself before a change.

    Attributes:
        digest: SHA-256 of the names and sizes of its files, of metadata, and of what was read of their content.
        exact: whether all of the content was read; else a change may hide between the samples.
        written: newest modification time of its files, ISO 8601 in UTC.
    """

    digest: str
    exact: bool
    written: str


def identity(
    path: str | Path | Location, *, whole: int = 64 << 20, opened: int = 1024, samples: int = 512, sample: int = 4096
) -> Identity:
    """Identify an image by what is stored: a file, or several, the name of a dataset, or a Zarr store with its chunks.

    The digest stays when the image is copied or touched, whatever times the copies have, and when labels are added to
    it. It changes with the name, number or size of its files, and with any byte of a small image. Of larger ones
    evenly spread samples are read, at about the cost of a listing. Masks record the digest with the default sizes.

    Of an image on a server nothing is read but metadata: in the place of the content stand the tags (ETag) that the
    server gives its objects, so a copy there is another image. Of a Zarr that cannot be listed there is the metadata.

    Args:
        path: of the image, or its location.
        whole, opened: bytes, and files, up to which all of an image is read.
        samples, sample: how many samples are read of a larger one, and bytes of each.

    Raises:
        ImageError: some of it cannot be read.
    """
    if isinstance(path, Location):
        return _remote_identity(path)
    try:
        files = list(_files_of(str(path)))
        size = sum(file.size for file in files)
        exact = size <= whole and len(files) <= opened
        digest = hashlib.sha256("".join(f"{f.name}\t{f.size}\n" for f in files).encode(errors="surrogateescape"))
        for content in _contents(files) if exact else _sampled(files, size, samples, sample):
            digest.update(content)
    except OSError as error:
        raise ImageError(
            f"{error.filename or path} cannot be read ({error.strerror}): check its permissions"
        ) from error
    written = datetime.fromtimestamp(max((file.time for file in files), default=0) / 1e9, UTC).isoformat()
    return Identity(digest.hexdigest(), exact, written)


@dataclass(frozen=True)
class _File:
    """A stored file: its name relative to the image, path, size, and modification time in nanoseconds."""

    name: str
    path: str
    size: int
    time: int = 0


def _files_of(path: str) -> Iterator[_File]:
    """Yield the files of an image, its own first: those of the folder of a slide, whatever that is called."""
    stored, dataset = split_dataset(path)
    beside = companions(stored)
    if not beside or not os.path.isdir(stored):
        yield from _files(stored, dataset, {os.path.realpath(stored)})
    for one in beside:
        yield from _files(one, "/" if os.path.isdir(one) else os.path.basename(one), {os.path.realpath(one)})


def _files(path: str, prefix: str, entered: set[str]) -> Iterator[_File]:
    """Yield the files of an image in order of their names; of a store without its labels."""
    if not os.path.isdir(path):
        state = os.stat(path)
        yield _File(prefix, path, state.st_size, state.st_mtime_ns)
        return
    with os.scandir(path) as entries:
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
            yield from _files(entry.path, f"{name}/", entered)
        elif entry.name in METADATA:
            yield _File(f"{name} {_digest_of_metadata(entry.path)}", entry.path, 0)
        elif not entry.name.startswith(".") and not entry.name.endswith(".partial"):
            try:
                state = entry.stat()
            except FileNotFoundError:  # a broken link counts as no file
                continue
            yield _File(name, entry.path, state.st_size, state.st_mtime_ns)


def _digest_of_metadata(path: str) -> str:
    """Return the digest of a metadata file without consolidated metadata, which changes when labels are added."""
    with open(path, "rb") as file:
        return _digest_of(file.read(_METADATA_LIMIT))


def _digest_of(text: bytes) -> str:
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if isinstance(meta, dict):
        meta.pop("consolidated_metadata", None)
        text = json.dumps(meta, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()


def _contents(files: list[_File]) -> Iterator[bytes]:
    for file in files:
        if file.size:
            with open(file.path, "rb") as opened:
                while content := opened.read(1 << 20):
                    yield content


def _sampled(files: list[_File], size: int, samples: int, sample: int) -> Iterator[bytes]:
    """Yield samples at even distances of all files, as if they were one; a sample ends with its file."""
    if size == 0:
        return
    remaining = iter(files)
    file, begin = next(remaining), 0
    for number in range(samples):
        place = max(size - sample, 0) * number // (samples - 1)
        while place >= begin + file.size:
            begin += file.size
            file = next(remaining)
        with open(file.path, "rb") as opened:
            opened.seek(place - begin)
            yield opened.read(sample)


def _remote_identity(place: Location) -> Identity:
    digest, exact = hashlib.sha256(), True
    try:
        node = read_node(place)
        if node is None:
            file = store_at(place.parent).head(place.name)
            digest.update(f"\t{file.size}\t{file.tag}\n".encode())
        else:
            store = store_at(place)
            try:
                entries = sorted(_objects(store), key=lambda entry: entry.key)
            except (UnsupportedOperation, DeniedError):
                levels = ["", *(f"{level}/" for level in _levels(place, node))]
                entries, exact = list(_known(store, [f"{level}{name}" for level in levels for name in METADATA])), False
            for one in entries:
                is_metadata = one.key.rpartition("/")[2] in METADATA
                tag = f" {_digest_of(store.get(one.key))}\t0" if is_metadata else f"\t{one.size}\t{one.tag}"
                digest.update(f"{one.key}{tag}\n".encode())
    except OSError as error:
        raise ImageError(error) from error
    return Identity(digest.hexdigest(), exact, "")


def _levels(place: Location, node: Node) -> list[str]:
    """Return the names of the arrays of all images of a group."""
    images = [read_multiscale(str(place), node, number) for number in range(len(multiscale_names(node)))]
    return [path for image in images if image is not None for path in image.paths]


def _objects(store: Store) -> Iterator[Entry]:
    """Yield the objects of a Zarr without its labels."""
    for name in store.folders():
        if name != _LABELS:
            yield from (one for one in store.list(name) if f"/{_LABELS}/" not in one.key)
    yield from _known(store, METADATA)


def _known(store: Store, names: Iterable[str]) -> Iterator[Entry]:
    """Yield those of `names` that are stored."""
    for name in names:
        try:
            yield store.head(name)
        except (FileNotFoundError, DeniedError):
            continue
