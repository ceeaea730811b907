"""The record of a mask: what is kept of it wherever it is stored, and how two of them differ."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.masks.disk import MARK, is_ours, read_group
from tilesegment.masks.exported import read_exported


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


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of what decides whether two masks are the same, for a file that cannot hold a record."""
    same = {part: record[part] for part in ("layout", "fingerprint")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def differing(there: Any, now: Mapping[str, Any]) -> str:
    """The settings in which two records differ, with both values; empty if the masks are the same."""
    if isinstance(there, dict) and "digest" in there:
        return "" if there["digest"] == digest(now) else "a JPEG does not say which"
    differences = []
    for part in ("layout", "fingerprint"):
        old, new = there.get(part) if isinstance(there, dict) else None, now[part]
        if not isinstance(old, dict):
            return "its record is damaged"
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new or old[key] != new[key]:
                differences.append(f"{key}: {_short(old, key)} there, {_short(new, key)} now")
    return "; ".join(differences)


def _short(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "none"
    return text if len(text) <= 60 else f"{text[:57]}..."
