"""The record of a mask: what is kept of it wherever it is stored, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.masks.disk import MARK, is_ours, read_group
from tilesegment.masks.exported import read_exported
from tilesegment.masks.spec import spec_from_record
from tilesegment.metadata import LabelClass

# keys of the fingerprint by which an image is known: a digest of what it stores, and that of earlier releases, which
# does not see the chunks of a Zarr. Where both records have the first, the second is not compared.
STORED, FORMER = "stored", "content"
# key of the layout: where the mask lies, of which earlier releases kept the pixel size alone
FRAME = "frame"
# key of the record of a mask in progress: some of the image could not be read, and is expected to be repaired
UNREADABLE = "unreadable"


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of what stands under the name `path`, finished or not; None if that is nothing of ours.

    That of a JPEG is only a digest, see `digest`.

    Raises:
        MaskError: it is a folder whose metadata is damaged.
    """
    if path.is_symlink() or not path.exists():
        return None
    if path.is_file():
        return read_exported(path)
    group = read_group(path) if is_ours(path) else None
    record = None if group is None else group.attributes[MARK]
    return record if isinstance(record, dict) else None


def recorded_classes(path: Path, *, probabilities: bool) -> tuple[LabelClass, ...] | None:
    """The classes of a mask, or of probabilities, by the record in it; None for any other file.

    Raises:
        MaskError: its record is damaged.
    """
    record = read_record(path)
    layout = None if record is None else record.get("layout")  # a JPEG holds no more than a digest
    if record is None or not isinstance(layout, dict) or (layout.get("kind") == "probabilities") != probabilities:
        return None
    return spec_from_record(record).classes


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what decides whether two masks are the same, for a file that cannot hold a record."""
    return _digest_without(record, FORMER if STORED in record["fingerprint"] else STORED)


def _digest_without(record: Mapping[str, Any], left_out: str) -> str:
    decides = {key: value for key, value in record["fingerprint"].items() if key != left_out}
    layout = {key: value for key, value in record["layout"].items() if key != FRAME}  # no file holds it
    same = {"layout": layout, "fingerprint": decides}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def differing(there: Any, now: Mapping[str, Any]) -> str:
    """The settings in which two records differ, with both values; empty if the masks are the same."""
    if isinstance(there, dict) and "digest" in there:
        same = (digest(now), _digest_without(now, STORED))
        return "" if there["digest"] in same else "a JPEG does not say which"
    differences = []
    for part in ("layout", "fingerprint"):
        old, new = there.get(part) if isinstance(there, dict) else None, now[part]
        if not isinstance(old, dict):
            return "its record is damaged"
        left_out = {FORMER if STORED in old and STORED in new else STORED}
        if FRAME not in old:  # as in masks of earlier releases
            left_out |= {FRAME}
        if there.get(UNREADABLE):
            left_out |= {STORED, FORMER}
        for key in sorted((old.keys() | new.keys()) - left_out):
            if key not in old or key not in new or old[key] != new[key]:
                differences.append(_difference(key, old, new))
    return "; ".join(differences)


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key in (STORED, FORMER):
        return "content: the files of the image hold other data than when the mask was begun"
    return f"{key}: {_short(old, key)} there, {_short(new, key)} now"


def _short(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "none"
    return text if len(text) <= 60 else f"{text[:57]}..."
