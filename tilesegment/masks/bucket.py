"""A mask that grows in an object store, where nothing can be renamed or locked.

While `mask.zarr` grows, `mask.zarr.partial/zarr.json` is its record, `mask.zarr.partial/claims/` holds the claims of
runs, and its blocks are where they stay, below `mask.zarr/`. Nothing else is there, so that no reader finds an array or
a group. In the end the metadata of its levels is stored, then that of its group, which is the mask's name: one PUT,
only if it is absent. Then the record is deleted.

A mask that replaces another has levels of other names, `1f3a90c2-1/0`, of its settings and a number: the older one
stays readable until the PUT of the group replaces it, and a late block of another run gets into no other mask.
"""

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.masks.blocks import BlockArray, Survey
from tilesegment.masks.leases import HeldError, leased
from tilesegment.masks.remote import RemoteArray, begun_array, finished_array, in_parallel
from tilesegment.masks.spec import Grid, MaskSpec, differing
from tilesegment.masks.store import gone
from tilesegment.masks.target import PREFIX, Target, existing, is_ours, read_record
from tilesegment.metadata import MARK
from tilesegment.ome_zarr.labels import ZARR_FORMAT
from tilesegment.ome_zarr.node import METADATA, Node, group_documents, read_node
from tilesegment.stores import Location, store_at

_RECORD = "zarr.json"
_CLAIMS = "claims"
_ALONE = "alone"
_OURS = re.compile(rf"({PREFIX.pattern})\d+/.+")  # keys of levels
_LOOKED = 5.0  # seconds for which a mask counts as being in progress after its record was seen

_seen: dict[tuple[Location, str], float] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Bucket:
    """The home of a mask in a store; see `home.Home`."""

    target: Target

    @property
    def _path(self) -> Location:
        assert isinstance(self.target.path, Location)
        return self.target.path

    @property
    def _partial(self) -> Location:
        assert isinstance(self.target.partial, Location)
        return self.target.partial

    def opened(self) -> "Bucket":
        prefix = (self.record() or {}).get("prefix", "")
        return Bucket(replace(self.target, prefix=prefix if isinstance(prefix, str) else ""))

    def notes(self) -> tuple[str, ...]:
        if _keeps_conditions(self._partial):
            return ()
        return (
            f"{self._path.scheme}://{self._path.root} is on a server that ignores conditions (If-None-Match): runs "
            "cannot claim a mask there, so let no second one write it",
        )

    def check_free(self, record: Mapping[str, Any], overwrite: bool) -> None:
        path = self._path
        there = read_node(path, MaskError)
        if there is None or (not there.attributes and self.is_begun()):  # a run was killed between two PUTs
            return
        if MARK not in there.attributes:
            raise MaskError(f"{path} was not made by tilesegment and is not replaced; name another output")
        if not overwrite:
            raise existing(path, record)

    def is_begun(self) -> bool:
        return is_ours(self._partial)

    def record(self) -> dict[str, Any] | None:
        return read_record(self._partial)

    def is_used(self) -> bool:
        return bool(self.opened()._keys())

    def begin(self, record: Mapping[str, Any], grid: Grid, *, anew: bool) -> None:
        keys = [entry.key for entry in store_at(self._path).list()]
        foreign = [key for key in keys if key not in METADATA and not _OURS.fullmatch(key)]
        if foreign:
            raise MaskError(
                f"{self._path} holds objects that tilesegment did not make, such as {foreign[0]}; name another output"
            )
        named = {**record, "prefix": _new_prefix(record, keys)} if keys or anew else record
        is_first = store_at(self._partial).put_if_absent(_RECORD, _as_bytes(Node(3, {MARK: named})))
        there = None if is_first else read_node(self._partial, MaskError)
        if there is not None and MARK not in there.attributes:
            raise MaskError(f"{self._partial} is in the way and was not made by tilesegment; move it away")

    def discard(self) -> None:
        finished = read_record(self._path)
        if finished is None or finished.get("prefix", "") != self.opened().target.prefix:
            store_at(self._path).delete(self.opened()._keys())
        self._delete_partial()

    def is_open(self) -> bool:
        there = self.record()
        return there is not None and there.get("prefix", "") == self.target.prefix

    def base(self, grid: Grid) -> BlockArray:
        return self.level(0, grid)

    def level(self, number: int, grid: Grid) -> RemoteArray:
        return begun_array(self._path / f"{self.target.prefix}{number}", grid, self._check)

    def finished_level(self, number: int, grid: Grid) -> BlockArray:
        return finished_array(self._path / f"{self.target.prefix}{number}", grid)

    def survey(self, number: int, grid: Grid, *, finished: bool) -> Survey:
        return self.level(number, grid).survey(deep=True)

    def amend(self, changes: Mapping[str, Any]) -> None:
        there = self.record()
        if there is not None:
            store_at(self._partial).put(_RECORD, _as_bytes(Node(3, {MARK: {**there, **changes}})))

    @contextmanager
    def claim(self, *, part: tuple[int, int] | None = None, to_finish: bool = False) -> Iterator[bool]:
        if part is not None and not _keeps_conditions(self._partial):
            raise MaskError(
                f"{self._path.scheme}://{self._path.root} is on a server that ignores conditions (If-None-Match), "
                "which claims of parts need: leave --part out, or write to another store"
            )
        name = _ALONE if part is None else f"part-{part[0]}-of-{part[1]}"
        if not self.is_open():
            yield False
            return

        def rivals(other: str) -> bool:
            # whoever finishes has found all blocks stored: parts that still run store them once more
            return other == _ALONE or (part is None and not to_finish)

        try:
            with leased(store_at(self._partial / _CLAIMS), name, rivals, wait=to_finish):
                yield self.is_open()
        except HeldError as error:
            what = f"part {part[0]}/{part[1]} of " if part is not None else ""
            raise MaskError(
                f"another run ({error}) is writing {what}{self._partial}; wait for it, or stop it; parts of one job "
                "need --part, all of them, each another"
            ) from None

    def publish(
        self,
        levels: Sequence[BlockArray],
        spec: MaskSpec,
        record: Mapping[str, Any],
        attributes: Mapping[str, Any],
        overwrite: bool,
    ) -> None:
        store = store_at(self._path)
        if not self.is_open():  # deleted, or replaced by one in progress with other settings
            raise gone(self._partial)
        in_parallel(_put_documents, levels)
        group = group_documents(Node(ZARR_FORMAT[self.target.version], dict(attributes)))
        *others, (name, document) = group.items()
        for other, content in others:
            store.put(other, content)
        if overwrite:
            store.put(name, document)
        elif not store.put_if_absent(name, document):
            there = read_record(self._path)
            if there is None or differing(there, record) or there.get("prefix", "") != self.target.prefix:
                raise MaskError(f"{self._path} exists; name another output, or use --overwrite to replace it")
        if self.target.version == "0.4":  # the metadata of another version would be read in place of this
            store.delete(["zarr.json"])
        self.tidy(record)

    def reopen(self, record: Mapping[str, Any], grid: Grid) -> None:
        store, prefix = store_at(self._path), self.target.prefix
        partial = _as_bytes(Node(3, {MARK: {**record, "state": "partial"}}))
        # one in progress only goes on under --overwrite
        if not store_at(self._partial).put_if_absent(_RECORD, partial) and not self.is_open():
            return
        store.delete(METADATA)
        blocks = f"{prefix}0/c/" if grid.format == 3 else f"{prefix}0/"
        store.delete(key for key in self._keys() if not key.startswith(blocks) or key.rpartition("/")[2] in METADATA)

    def tidy(self, record: Mapping[str, Any]) -> None:
        store = store_at(self._path)
        # a mask that is begun meanwhile has its record before its first block
        keys = [entry.key for entry in store.list()]
        finished, partial = read_record(self._path), self.record()
        if finished is None:
            return
        if "zarr.json" in keys:  # and of another version that it replaces
            store.delete(set(keys) & set(METADATA) - {"zarr.json"})
        kept = finished.get("prefix", "")
        others = set() if partial is None else {str(partial.get("prefix", ""))}
        found = [(key, _OURS.fullmatch(key)) for key in keys]
        store.delete(key for key, match in found if match is not None and match[1] not in (kept, *others))
        if partial is None or kept in others:
            self._delete_partial()

    def _check(self) -> None:
        """Check now and then that the mask is still in progress, so that a late block is not left lying about."""
        key, now = (self._path, self.target.prefix), time.monotonic()
        with _lock:
            is_known = now - _seen.get(key, -_LOOKED) < _LOOKED
        if is_known:
            return
        if not self.is_open():
            raise gone(self._partial)
        with _lock:
            _seen[key] = now

    def _keys(self) -> list[str]:
        """Return the keys of all objects of this mask's levels."""
        store, prefix = store_at(self._path), self.target.prefix
        matches = [_OURS.fullmatch(entry.key) for entry in store.list(prefix.rstrip("/"))]
        return [match[0] for match in matches if match is not None and match[1] == prefix]

    def _delete_partial(self) -> None:
        """Delete record and claims, the record last: without it nothing tells what the others are of."""
        store = store_at(self._partial)
        keys = [entry.key for entry in store.list()]
        store.delete(key for key in keys if key != _RECORD)
        store.delete([_RECORD])


def _new_prefix(record: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return what the names of the levels begin with in a mask that replaces another: unlike any of `keys`."""
    same = json.dumps({name: record[name] for name in ("layout", "fingerprint")}, sort_keys=True)
    name = hashlib.sha256(same.encode()).hexdigest()[:8]
    numbers = [int(match[1]) for key in keys if (match := re.match(rf"{name}-(\d+)/", key))]
    return f"{name}-{max(numbers, default=0) + 1}/"


def _put_documents(level: BlockArray) -> None:
    """Store the metadata of a level."""
    assert isinstance(level, RemoteArray)
    for name, document in level.documents.items():
        store_at(level.path).put(name, document)


def _as_bytes(group: Node) -> bytes:
    (document,) = group_documents(group).values()
    return document


@lru_cache(maxsize=256)
def _keeps_conditions(partial: Location) -> bool:
    """Return whether the server keeps the condition of `put_if_absent`, by trying it where a mask is in progress."""
    store, key = store_at(partial), f"{_CLAIMS}/try-{secrets.token_hex(8)}"
    try:
        return store.put_if_absent(key, b"first") and not store.put_if_absent(key, b"second")
    finally:
        store.delete([key])
