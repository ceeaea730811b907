"""State of a mask by its final name: whether it is complete, and how to go on with it without its job.

A complete mask that was damaged since becomes one in progress again, so that only what is missing is computed.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilesegment.errors import FinishedError, MaskError
from tilesegment.masks.blocks import reporting
from tilesegment.masks.home import home_of
from tilesegment.masks.reader import open_levels
from tilesegment.masks.spec import MaskSpec, differing, spec_from_record
from tilesegment.masks.target import (
    Target,
    absolute,
    find_host,
    mask_target,
    objects_target,
    partial_name,
    probabilities_target,
    read_record,
    recorded_target,
)
from tilesegment.masks.writer import MaskWriter, open_writer
from tilesegment.stores import Place, place_of


@dataclass(frozen=True)
class MaskStatus:
    """Progress of a mask, or of the probabilities of its classes.

    Attributes:
        path: its final name.
        state: `complete` or `partial`.
        blocks, done: number of all blocks, and of those stored whole.
        damaged: stored objects that are not whole; of a complete mask also missing ones, and those of smaller levels.
        spec: what it is.
    """

    path: Place
    state: str
    blocks: int
    done: int
    damaged: int
    spec: MaskSpec


def status(path: str | Place) -> MaskStatus:
    """Return the progress of the mask with the final name `path`; the blocks of a complete one are checked too.

    Raises:
        MaskError: there is none, or its metadata is damaged.
    """
    place = absolute(path)
    with reporting("read", place):
        folder, record = _find(place)
        spec, target = spec_from_record(record), recorded_target(place, partial_name(place), record)
        is_partial = folder != place or record.get("state") == "partial"
        grids = [target.grid(spec).halved(halvings) for halvings in target.halvings]
        if not target.is_folder and not is_partial:
            blocks = math.prod(grids[0].count(spec.block))
            return MaskStatus(place, "complete", blocks, blocks, 0, spec)
        home, finished = home_of(target), folder == place
        wanted = enumerate(grids[:1] if is_partial else grids)
        levels = [home.survey(number, grid, finished=finished) for number, grid in wanted]
    done = levels[0].done
    damaged = sum(len(level.damaged) if is_partial else np.count_nonzero(~level.done) for level in levels)
    state = "partial" if is_partial else "complete"
    return MaskStatus(place, state, done.size, int(np.count_nonzero(done)), int(damaged), spec)


def open_partial(path: str | Place) -> MaskWriter:
    """Open the mask in progress with the final name `path`.

    Raises:
        MaskError: there is none, or it is damaged.
        FinishedError: it is finished.
    """
    place = absolute(path)
    with reporting("open", place):
        folder, record = _find(place)
        if folder == place and record.get("state") != "partial":
            raise FinishedError(f"{place} is finished; nothing is left to do")
        spec, target = spec_from_record(record), recorded_target(place, partial_name(place), record)
        if target.kind == "labels":
            target = replace(target, host=find_host(place))
        if folder == place:
            home_of(target).reopen(record, target.grid(spec))
        return open_writer(target, spec, overwrite=False)


def is_complete(
    path: str | Place,
    spec: MaskSpec,
    *,
    ngff: str = "0.5",
    probabilities: bool = False,
    objects: bool = False,
    values: str = "float32",
) -> bool:
    """Return whether the output `path` exists, was made with the same layout and fingerprint, and is whole.

    One that is not whole becomes a mask in progress again, if it is a Zarr; `create_mask` then goes on with it.

    Args:
        path, spec, ngff: as for `create_mask`.
        probabilities, values: whether `create_probabilities` wrote it, and the dtype of its values.
        objects: whether `create_objects` wrote it.

    Raises:
        MaskError: no format has such a name, or what is there cannot be read, or not be mended.
    """
    if probabilities:
        target = probabilities_target(place_of(path), spec, values)
    else:
        target = (objects_target if objects else mask_target)(place_of(path), spec, ngff)
    record = target.record(spec, "complete")
    with reporting("read", target.path):
        there = read_record(target.path)
        if there is None or differing(there, record):
            return False
        found = recorded_target(target.path, target.partial, there)
        if target.is_folder and not _is_whole(found, spec, there):
            home_of(found).reopen(there, target.grid(spec))
            return False
        home_of(target).tidy(record)
    return True


def _find(path: Place) -> tuple[Place, dict[str, Any]]:
    """Return folder or file and record of the mask with the final name `path`: complete, else in progress."""
    found = [(place, read_record(place)) for place in (path, partial_name(path))]
    records = [(place, record) for place, record in found if record is not None]
    if not records:
        raise MaskError(f"{path} is no mask written by tilesegment, and none of that name is in progress; name one")
    # one under its final name may have been on its way back to a mask in progress
    return records[0] if records[0][1].get("state") != "partial" else records[-1]


def _is_whole(target: Target, spec: MaskSpec, record: dict[str, Any]) -> bool:
    """Return whether the folder under its final name has all levels with all blocks."""
    if record.get("state") != "complete":
        return False
    try:
        levels = open_levels(target, spec)
    except MaskError:  # a level is damaged: it is built again
        return False
    return all(level.survey().done.all() for level in levels)
