"""What becomes of blocks that are sent to workers, with tasks that predict nothing."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster_tasks
import pytest
from cluster_tasks import counted, send, work_of

from tilesegment.cluster import Cluster
from tilesegment.cluster.window import Window
from tilesegment.prediction.queue import Work

# sockets and processes that dask leaves to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


class TestWindow:
    """What becomes of blocks, with tasks that predict nothing."""

    def test_every_block_comes_back_once(self, cluster: Cluster, tmp_path: Path) -> None:
        back = send(cluster, cluster_tasks.plain, 700, tmp_path)
        assert sorted(back) == [(column, None) for column in range(700)]
        assert counted(tmp_path) == Counter(range(700))

    def test_what_fails_on_one_worker_is_done_by_another(self, cluster: Cluster, tmp_path: Path) -> None:
        back = send(cluster, cluster_tasks.fails_on_one, 40, tmp_path)
        assert sorted(back) == [(column, None) for column in range(40)]

    def test_what_fails_everywhere_is_given_back_after_three_tries(self, cluster: Cluster, tmp_path: Path) -> None:
        back = dict(send(cluster, cluster_tasks.fails_always, 40, tmp_path))
        assert {column for column, error in back.items() if error is not None} == {3, 13, 23, 33}
        assert str(back[13]) == "block 13 is bad"
        assert counted(tmp_path)[13] == 3

    def test_a_mistake_of_ours_is_told(self, cluster: Cluster, tmp_path: Path) -> None:
        ((_, error),) = send(cluster, cluster_tasks.raises, 1, tmp_path)
        assert "this should not have happened" in str(error)

    def test_what_is_in_flight_is_bounded_and_the_work_is_not_drawn_at_once(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        drawn: list[int] = []
        run: Any = tmp_path

        def work() -> Iterator[Work]:
            for item in work_of(1_000_000, run):
                drawn.append(item.block.column)
                yield item

        sent = Window(cluster.crew, cluster_tasks.plain, lambda job: job, work(), lambda: False).results()
        for _ in range(50):
            next(sent)
        sent.close()
        assert len(drawn) < 200
