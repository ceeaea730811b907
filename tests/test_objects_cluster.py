"""Objects on the workers of a cluster, and by the parts of a job: the same files as by one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dask_processes import Processes
from object_runs import WORK, OneByOne, contents, find_in, write_mask

from tilesegment.cluster import Cluster
from tilesegment.cluster.object_tasks import Opened, SentStage
from tilesegment.errors import ClusterError, MaskError, StoppedError
from tilesegment.objects.arrays import SUFFIX
from tilesegment.objects.cut import Place
from tilesegment.objects.find import find_objects
from tilesegment.objects.stages import Stages

pytestmark = [
    pytest.mark.slow,
    # sockets and processes that dask leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Of 9 blocks."""
    return write_mask(tmp_path / "mask.tif")


@pytest.fixture
def expected(mask: Path) -> dict[str, bytes]:
    """The files of one process."""
    find_in(mask.with_name("one"), mask)
    return contents(mask.with_name("one"))


class TestWorkers:
    def test_the_files_are_those_of_one_process(
        self, cluster: Cluster, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        done = find_in(tmp_path / "two", mask, workers=cluster)
        assert done.finished and done.count > 20
        assert contents(tmp_path / "two") == expected

    def test_volumes_are_linked_before_workers_go_on(self, cluster: Cluster, tmp_path: Path) -> None:
        """Objects are numbered twice there, so that what workers have read at first is no longer true."""
        stack = write_mask(tmp_path / "stack.tif", (5, 100, 110))
        for name, workers in (("one", None), ("two", cluster)):
            find_in(tmp_path / name, stack, workers=workers, volume=True)
        assert contents(tmp_path / "two") == contents(tmp_path / "one")

    def test_another_mask_or_setting_under_the_same_name_is_not_mixed_up(
        self, cluster: Cluster, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        for changed in ({"min_area": 30}, {"classes": "2"}, {"block": 50}):
            find_in(tmp_path / "two", mask, workers=cluster, overwrite=True, **changed)
        write_mask(mask, seed=1)
        find_in(tmp_path / "two", mask, workers=cluster, overwrite=True)
        assert contents(tmp_path / "two") != expected
        write_mask(mask)
        find_in(tmp_path / "two", mask, workers=cluster, overwrite=True)
        assert contents(tmp_path / "two") == expected

    def test_asked_to_stop_it_ends_and_goes_on(
        self, cluster: Cluster, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        heard: list[str] = []
        for stage in ("label", "grow", "measure", "paint"):
            with pytest.raises(StoppedError):
                find_in(
                    tmp_path / "two",
                    mask,
                    workers=cluster,
                    report=lambda done, what: heard.append(what),
                    stop=lambda stage=stage: stage in heard,
                )
            if stage != "paint":  # meanwhile tables and outlines get their names
                assert not set(contents(tmp_path / "two")) & {"cells.csv", "cells.geojson"}
        find_in(tmp_path / "two", mask, workers=cluster)
        assert contents(tmp_path / "two") == expected

    def test_a_damaged_result_is_made_again(
        self, cluster: Cluster, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        stopped_before(mask, tmp_path / "two", "measure")
        (results,) = (tmp_path / "two" / WORK).glob("*/")
        for path in (results / "filled" / f"0-1-1{SUFFIX}", results / "filled" / f"joined{SUFFIX}"):
            path.write_bytes(path.read_bytes()[:-30])
        done = find_in(tmp_path / "two", mask, workers=cluster)
        assert any("made again" in note for note in done.notes)
        assert contents(tmp_path / "two") == expected

    def test_an_error_names_the_machine(self, cluster: Cluster, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "ids.tif", np.full((70, 70), -3, np.int16))
        with pytest.raises(MaskError, match=r"values from -3 to -3; allowed: ids from 0 to 4294967295 \(on "):
            find_objects(tmp_path / "ids.tif", tmp_path / "cells.csv", workers=cluster, block=32)

    def test_on_a_joined_cluster(
        self, mask: Path, expected: dict[str, bytes], tmp_path: Path, processes: Processes
    ) -> None:
        """With a worker that is killed on its way, and another that comes."""
        file = tmp_path / "scheduler.json"
        processes.scheduler(file)
        first = processes.worker(file)
        killed = []

        def kill(done: float, what: str) -> None:
            if what == "grow" and not killed:
                killed.append(what)
                first.kill()
                processes.worker(file)

        with Cluster.join(str(file), wait=60) as joined:
            find_in(tmp_path / "two", mask, workers=joined, report=kill)
        assert killed and contents(tmp_path / "two") == expected

    def test_a_worker_without_this_package_is_refused(self, mask: Path, tmp_path: Path, processes: Processes) -> None:
        file = tmp_path / "scheduler.json"
        processes.scheduler(file)
        processes.worker(file, lacks_us=True)
        with Cluster.join(str(file), wait=60) as joined, pytest.raises(ClusterError, match="without tilesegment"):
            find_in(tmp_path / "two", mask, workers=joined)


def stopped_before(mask: Path, folder: Path, stage: str, **more: str) -> None:
    """Run the stages before one, and a block of it."""
    heard: list[str] = []
    how = {"workers": OneByOne(), "report": lambda done, what: heard.append(what), "stop": lambda: stage in heard}
    with pytest.raises(StoppedError):
        find_in(folder, mask, **how, **more)


class TestOpened:
    """What a worker keeps open from one task to the next."""

    def test_a_late_task_of_another_plan_leaves_the_work_folder_alone(self, mask: Path, tmp_path: Path) -> None:
        stopped_before(mask, tmp_path / "two", "grow")
        late = Stages.open(tmp_path / "two" / WORK)
        stopped_before(mask, tmp_path / "two", "grow", classes="2")
        before = contents(tmp_path / "two")
        with pytest.raises(MaskError):
            late.do("label", Place(0, 0, 0))
        late.close()
        assert contents(tmp_path / "two") == before

    def test_a_folder_of_another_plan_is_not_used(self, mask: Path, tmp_path: Path) -> None:
        folder = tmp_path / "two" / WORK
        stopped_before(mask, tmp_path / "two", "grow")
        sent = SentStage("1", folder, Stages.open(folder).plan, (), "grow")
        opened = Opened()
        first = opened.stages_of(sent)
        assert opened.stages_of(replace(sent, token="2")) is first
        stopped_before(mask, tmp_path / "two", "grow", classes="2")
        other = replace(sent, token="3", plan=replace(sent.plan, min_area=3))
        with pytest.raises(MaskError, match="belongs to another run"):
            opened.stages_of(other)
        assert opened.stages_of(replace(sent, token="4", plan=Stages.open(folder).plan)) is not first
        assert opened.stages is not None
        opened.stages.close()
