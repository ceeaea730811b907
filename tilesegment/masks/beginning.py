"""Begins a mask: its folder in progress appears whole, whatever kills the process and however many begin at once."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.files import sync, temporary_name
from tilesegment.masks.blocks import create_array
from tilesegment.masks.disk import MARK, Group, is_ours, remove_ours, write_group
from tilesegment.masks.locks import held
from tilesegment.masks.record import differing, read_record
from tilesegment.masks.spec import MaskSpec
from tilesegment.masks.target import Target


def begin(target: Target, spec: MaskSpec, overwrite: bool) -> None:
    """Makes the folder in progress, or checks that the one that is there was begun for the same mask.

    One for another mask is replaced if `overwrite` is set or nothing is stored in it, and nobody is writing it.

    Raises:
        MaskError: it is for another mask, and may not be replaced; or it is not ours.
    """
    record = target.record(spec, "partial")
    if target.kind == "labels":
        target.partial.parent.mkdir(exist_ok=True)
    while True:
        if not is_ours(target.partial):
            _make(target, spec)
        elif differing(read_record(target.partial), record):
            _discard(target, record, overwrite)
        else:
            return


def _make(target: Target, spec: MaskSpec) -> None:
    """Makes the folder under a private name and renames it: of several processes, one succeeds."""
    made = temporary_name(target.path)
    try:
        made.mkdir()
        write_group(made, Group(target.grid(spec).format, {MARK: target.record(spec, "partial")}))
        create_array(made / "0", target.grid(spec))
        os.rename(made, target.partial)
        sync(target.partial.parent)
    except OSError:
        if is_ours(target.partial):  # another process was faster
            return
        if target.partial.exists():
            raise MaskError(f"{target.partial} is in the way and was not made by tilesegment; move it away") from None
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _discard(target: Target, record: Mapping[str, Any], overwrite: bool) -> None:
    """Deletes the folder in progress, which was begun for another mask."""
    _is_other(target.partial, record, overwrite)
    with held(target.partial):
        # it may have been replaced since it was read
        if is_ours(target.partial) and _is_other(target.partial, record, overwrite):
            remove_ours(target.partial, target.path)


def _is_other(partial: Path, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the folder in progress was begun for another mask; if so, it must be one that may be replaced."""
    difference = differing(read_record(partial), record)
    if difference and not overwrite and _is_used(partial):
        advice = "run it with the same settings to go on, or use --overwrite to start anew"
        raise MaskError(f"{partial} was begun with other settings ({difference}); {advice}")
    return bool(difference)


def _is_used(partial: Path) -> bool:
    """Whether anything is stored in the array of the folder in progress."""
    metadata = ("zarr.json", ".zarray", ".zattrs")
    found = (name for _, _, names in os.walk(partial / "0") for name in names)
    return any(name not in metadata and not name.endswith(".partial") for name in found)
