"""Tasks of a worker for objects: blocks of a stage. A worker opens mask, image and work folder itself, once."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distributed import get_worker

from tilesegment.cluster.tasks import Report, portable
from tilesegment.errors import MaskError, TilesegmentError
from tilesegment.masks import MaskWriter
from tilesegment.objects.cut import Place
from tilesegment.objects.plan import ObjectPlan
from tilesegment.objects.stages import Stages
from tilesegment.threads import thread_count


class StageBlock(NamedTuple):
    """A block of a stage: an `Item` of the window."""

    job: str
    place: Place

    @property
    def where(self) -> str:
        """The block in a message."""
        z, row, column = self.place
        return f"row {row}, column {column}, plane {z}"


@dataclass(frozen=True)
class SentStage:
    """A stage as it is sent.

    Attributes:
        token: identifies this run of the stage: workers read the results of the stages before anew.
        folder: the work folder.
        plan: for which it was made.
        writers: the label images in progress.
        stage: name of the stage.
    """

    token: str
    folder: Path
    plan: ObjectPlan
    writers: tuple[MaskWriter, ...]
    stage: str


class Opened:
    """The work folder that this worker used last; other runs of the same cluster take turns."""

    def __init__(self) -> None:
        self.stages: Stages | None = None
        self.token = ""

    def stages_of(self, sent: SentStage) -> Stages:
        """Return the stages of a work folder, with what other processes have joined until this stage began.

        Raises:
            MaskError: this machine does not see the folder, or it belongs to another plan.
        """
        stages = self.stages
        if stages is None or (stages.folder, stages.plan) != (sent.folder, sent.plan):
            if stages is not None:
                self.stages = None
                stages.close()
            stages = Stages.open(sent.folder)
            if stages.plan != sent.plan:
                stages.close()
                raise MaskError(f"{sent.folder} belongs to another run by now; run it again to see which")
            self.stages, self.token = stages, ""
        if self.token != sent.token:
            stages.refresh(sent.writers)
            self.token = sent.token
        return stages


_opened = Opened()
# a worker with several threads still does one task at a time, in as many threads as it may use
_turn = threading.Lock()


def do_blocks(sent: SentStage, places: Iterable[tuple[int, int, int]]) -> Report:
    """Do the blocks of a stage at `places` (plane, row, column) and keep their results."""
    worker, blocks = str(get_worker().address), [Place(*place) for place in places]
    with _turn:
        try:
            stages = _opened.stages_of(sent)
        except Exception as error:
            return Report(dict.fromkeys(range(len(blocks)), portable(error)), 0.0, worker)
        start = time.monotonic()

        def attempt(place: Place) -> TilesegmentError | None:
            try:
                stages.do(sent.stage, place)
            except Exception as error:
                return portable(error)
            return None

        with ThreadPoolExecutor(thread_count()) as pool:
            found = list(pool.map(attempt, blocks))
        errors = {number: error for number, error in enumerate(found) if error is not None}
        return Report(errors, time.monotonic() - start, worker)
