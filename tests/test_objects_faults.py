"""Runs that find objects and are killed, stopped, refused, doubled, damaged or late: the files of an undisturbed run.

Commands run in processes of their own, in which some change on the disk is the last; the rest runs in this one.
"""

import errno
import random
import shutil
import signal
import threading
from collections.abc import Callable
from itertools import count, permutations
from pathlib import Path

import pytest
from fault_runs import Runs, is_one_line, killed, refused, signalled
from object_runs import LINE, NAMES, WORK, OneByOne, command, contents, find_in, write_mask

from tilesegment.errors import MaskError, StoppedError
from tilesegment.objects.arrays import SUFFIX
from tilesegment.objects.work import claimed


@pytest.fixture(scope="session")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 3 x 3 blocks."""
    return write_mask(tmp_path_factory.mktemp("inputs") / "mask.tif")


@pytest.fixture(scope="session")
def expected(mask: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    find_in(folder, mask)
    assert len(contents(folder)) > 12 and set(NAMES) == {path.name for path in folder.iterdir()}
    return contents(folder)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """In a folder of its own."""
    for name in ("here", "said"):
        (tmp_path / name).mkdir()
    return Runs(tmp_path / "here", tmp_path / "said", command)


def stop_at(stage: str, folder: Path, mask: Path, **more: object) -> None:
    """Stop a run as soon as some of a stage is done."""
    reached = threading.Event()

    def report(done: float, what: str) -> None:
        if what == stage:
            reached.set()
        elif (what, stage) == ("write", "paint"):  # both go on at once, and tables might be first to be whole
            assert reached.wait(60)

    how = {"workers": OneByOne(), "report": report, "stop": reached.is_set}
    with pytest.raises(StoppedError):
        find_in(folder, mask, **how, **more)


@pytest.mark.slow
class TestKilled:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_at_random_moments(self, runs: Runs, mask: Path, expected: dict[str, bytes], seed: int) -> None:
        """Many kills of one run, each some changes after it went on."""
        moments, kills = random.Random(seed), 0
        while runs(LINE.format(mask), killed(moments.randint(1, 40))).code == -signal.SIGKILL:
            kills += 1
        assert kills > 6
        assert contents(runs.folder) == expected

    @pytest.mark.parametrize("begun", [False, True])
    def test_at_any_change_of_the_end(self, runs: Runs, mask: Path, expected: dict[str, bytes], begun: bool) -> None:
        """Also where an older result is replaced."""
        line, before = LINE.format(mask), {}
        if begun:
            find_in(runs.folder, mask, min_area=30)
            line, before = f"{line} --overwrite", contents(runs.folder)
        for at in count(0, 13 if begun else 6):
            # up to the writing the results stay, so that a run is short
            stop_at("write", runs.folder, mask, overwrite=begun)
            found = runs(line, killed(at + 1))
            if found.code == 0:
                break
            there = contents(runs.folder)
            for name in NAMES:
                # a folder is replaced by two renames
                between = [{}] if name.endswith(".zarr") else []
                assert of_name(there, name) in (of_name(before, name), of_name(expected, name), *between)
            runs.finish(line)
            assert contents(runs.folder) == expected
            if not begun:
                clear(runs.folder)
        assert at > 30

    def test_parts_of_a_job(self, runs: Runs, mask: Path, expected: dict[str, bytes]) -> None:
        """All at once, killed again and again; the record that parts leave is the only further file."""
        moments, line = random.Random(0), LINE.format(mask)
        left, kills = [1, 2, 3], 0
        while left:
            ends = [runs.start(f"{line} --part {k}/3", killed(moments.randint(1, 60))) for k in left]
            codes = [end().code for end in ends]
            assert set(codes) <= {0, -signal.SIGKILL}
            kills += codes.count(-signal.SIGKILL)
            left = [k for k, code in zip(left, codes, strict=True) if code]
        assert kills > 3
        assert finished(contents(runs.folder)) == expected


@pytest.mark.slow
class TestStopped:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
    def test_it_goes_on(self, runs: Runs, mask: Path, expected: dict[str, bytes], number: int, code: int) -> None:
        for at in (3, 30, 90, 60):
            found = runs(LINE.format(mask), signalled(at, number))
            assert (found.code, found.err.splitlines()[-1]) == (code, "Stopped.")
        runs.finish(LINE.format(mask))
        assert contents(runs.folder) == expected

    def test_a_disk_that_is_full_from_any_change_on(self, runs: Runs, mask: Path, expected: dict[str, bytes]) -> None:
        """Older results stay whole until the new ones are, each; nothing else appears under their names."""
        find_in(runs.folder, mask, min_area=30)
        line, old = f"{LINE.format(mask)} --overwrite", contents(runs.folder)
        for at in (1, 4, 40, 90, 40, 90):
            found = runs(line, refused(at, errno.ENOSPC))
            assert is_one_line(found, "No space left on device"), found
            there = contents(runs.folder)
            for name in NAMES:
                assert of_name(there, name) in (of_name(old, name), of_name(expected, name))
        runs.finish(line)
        assert contents(runs.folder) == expected

    def test_a_disk_that_is_full_at_the_end(self, runs: Runs, mask: Path, expected: dict[str, bytes]) -> None:
        """Each file has its final name once it is whole."""
        stop_at("write", runs.folder, mask)
        for at in count(1, 5):
            found = runs(LINE.format(mask), refused(at, errno.ENOSPC))
            if found.code == 0:
                break
            assert is_one_line(found, "No space left on device"), found
            there = contents(runs.folder)
            assert all(of_name(there, name) in ({}, of_name(expected, name)) for name in NAMES)
        assert contents(runs.folder) == expected
        assert at > 20


class TestWorkFolder:
    @pytest.mark.parametrize(
        ("stage", "damage"),
        [
            ("grow", lambda content: content[:-9]),
            ("fill", lambda content: b""),
            ("measure", lambda content: b"no" * 99),
            ("outline", lambda content: content[: len(content) // 2]),
            ("write", lambda content: content.replace(b"\0", b"\1")),
        ],
        ids=lambda given: given if isinstance(given, str) else "",
    )
    def test_damaged_results_are_made_again(
        self, mask: Path, expected: dict[str, bytes], tmp_path: Path, stage: str, damage: Callable[[bytes], bytes]
    ) -> None:
        """All of them, as power is lost before they are on the disk."""
        stop_at(stage, tmp_path, mask)
        for path in (tmp_path / WORK).rglob(f"*{SUFFIX}"):
            path.write_bytes(damage(path.read_bytes()))
        assert any("made again" in note for note in find_in(tmp_path, mask).notes)
        assert contents(tmp_path) == expected

    def test_a_damaged_plan_is_that_of_another_run(
        self, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        stop_at("measure", tmp_path, mask)
        (tmp_path / WORK / "plan.json").write_bytes(b"\xff{")
        assert find_in(tmp_path, mask).count
        assert contents(tmp_path) == expected

    @pytest.mark.slow
    def test_another_run_is_kept_out(self, mask: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
        stop_at("fill", tmp_path, mask)
        before = contents(tmp_path)
        for changed in ({}, {"min_area": 3}, {"overwrite": True}):
            with (
                claimed(tmp_path / WORK, shared=True),
                pytest.raises(MaskError, match=r"another run works in .*objects"),
            ):
                find_in(tmp_path, mask, **changed)
        assert contents(tmp_path) == before
        find_in(tmp_path, mask)
        assert contents(tmp_path) == expected

    @pytest.mark.slow
    @pytest.mark.parametrize("stage", ["label", "fill", "paint"])
    def test_other_settings_or_another_mask_start_anew(
        self, expected: dict[str, bytes], tmp_path: Path, stage: str
    ) -> None:
        mask = write_mask(tmp_path / "mask.tif", seed=1)
        stop_at(stage, tmp_path / "out", mask)
        stop_at(stage, tmp_path / "out", mask, min_area=30)
        write_mask(mask)
        done = find_in(tmp_path / "out", mask)
        assert any("started anew" in note for note in done.notes)
        find_in(tmp_path / "whole", mask)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert not any("anew" in note for note in find_in(tmp_path / "out", mask, overwrite=True).notes)

    def test_what_others_put_there_is_kept(self, mask: Path, tmp_path: Path) -> None:
        (tmp_path / WORK).mkdir()
        (tmp_path / WORK / "mine.txt").write_text("mine")
        with pytest.raises(MaskError, match=rf"cannot write to .*{WORK}"):
            find_in(tmp_path, mask)
        assert contents(tmp_path) == {f"{WORK}/mine.txt": b"mine"}


class TestParts:
    @pytest.mark.parametrize("order", [*permutations([1, 2, 3])])
    def test_in_any_order(self, mask: Path, expected: dict[str, bytes], tmp_path: Path, order: tuple[int, ...]) -> None:
        done = [find_in(tmp_path, mask, part=(k, 3)).finished for k in order]
        assert done == [False, False, True]
        assert finished(contents(tmp_path)) == expected

    def test_one_that_comes_too_late_has_nothing_to_do(
        self, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        counts = [find_in(tmp_path, mask, part=(k, 2)).count for k in (1, 2)]
        for more in ({}, {"overwrite": True}):
            late = find_in(tmp_path, mask, part=(1, 2), **more)
            assert late.finished and late.count == counts[1] > 0
            assert any("nothing was left to do" in note for note in late.notes)
        assert finished(contents(tmp_path)) == expected
        with pytest.raises(MaskError, match=r"exists.*--overwrite"):
            find_in(tmp_path, mask, part=(1, 2), min_area=30)
        assert find_in(tmp_path, mask).count == counts[1]
        assert contents(tmp_path) == expected

    def test_files_that_changed_since_are_not_taken_for_results(self, mask: Path, tmp_path: Path) -> None:
        for k in (1, 2):
            find_in(tmp_path, mask, part=(k, 2))
        (tmp_path / "cells.csv").write_text("mine")
        with pytest.raises(MaskError, match=r"cells.csv exists"):
            find_in(tmp_path, mask, part=(1, 2))

    @pytest.mark.slow
    def test_older_results_are_not_those_of_a_part(
        self, mask: Path, expected: dict[str, bytes], tmp_path: Path
    ) -> None:
        find_in(tmp_path, mask)
        with pytest.raises(MaskError, match=r"cells.csv exists"):
            find_in(tmp_path, mask, part=(1, 2))
        for k in (1, 2):
            assert find_in(tmp_path, mask, part=(k, 2), overwrite=True).finished == (k == 2)
        assert finished(contents(tmp_path)) == expected

    def test_a_stopped_part_goes_on_by_itself(self, mask: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
        stop_at("label", tmp_path, mask, part=(2, 2))
        assert not find_in(tmp_path, mask, part=(1, 2)).finished
        assert find_in(tmp_path, mask, part=(2, 2)).finished
        assert finished(contents(tmp_path)) == expected

    @pytest.mark.slow
    def test_all_at_once(self, runs: Runs, mask: Path, expected: dict[str, bytes]) -> None:
        for _ in range(3):
            ends = [runs.start(f"{LINE.format(mask)} --part {k}/4") for k in (1, 2, 3, 4, 4)]
            said = [end() for end in ends]
            assert [one.code for one in said] == [0] * 5, said
            assert finished(contents(runs.folder)) == expected
            clear(runs.folder)


def of_name(found: dict[str, bytes], name: str) -> dict[str, bytes]:
    """Those of one output."""
    return {path: content for path, content in found.items() if Path(path).parts[0] == name}


def clear(folder: Path) -> None:
    """Delete all that is in a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def finished(found: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a job of parts, without the record that they leave."""
    assert f"{WORK}.done" in found
    return {name: content for name, content in found.items() if name != f"{WORK}.done"}
