"""Tasks for the window that do no prediction: they count, fail, or end their worker."""

import os
import signal
from pathlib import Path
from typing import Any

from distributed import get_worker

from tilesegment.cluster.tasks import Report
from tilesegment.errors import ImageError

Places = list[tuple[int, int, int]]


def note_down(run: Any, places: Places) -> None:
    """Keeps which blocks were done, and how often: a line each in a file of the folder `run`."""
    with (Path(run) / f"{get_worker().name}.txt").open("a") as file:
        file.writelines(f"{column}\n" for _, _, column in places)


def plain(token: str, run: Any, places: Places) -> Report:
    """Does every block."""
    note_down(run, places)
    return Report({}, 0.01 * len(places), str(get_worker().address))


def fails_on_one(token: str, run: Any, places: Places) -> Report:
    """Worker 0 can do nothing, as if it did not see the files."""
    if get_worker().name == 0:
        return Report(dict.fromkeys(range(len(places)), ImageError("not here")), 0.0, str(get_worker().address))
    return plain(token, run, places)


def fails_always(token: str, run: Any, places: Places) -> Report:
    """Every tenth block cannot be done."""
    note_down(run, places)
    errors = {n: ImageError(f"block {place[2]} is bad") for n, place in enumerate(places) if place[2] % 10 == 3}
    return Report(errors, 0.01 * len(places), str(get_worker().address))


def ends_its_worker(token: str, run: Any, places: Places) -> Report:
    """Block 5 ends whatever process predicts it, as one that is killed for its memory."""
    if any(column == 5 for _, _, column in places):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(token, run, places)


def raises(token: str, run: Any, places: Places) -> Report:
    """A mistake of ours."""
    raise AssertionError("this should not have happened")
