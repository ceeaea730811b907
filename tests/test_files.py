"""Files written whole or not at all, what killed processes leave, and locks."""

import os
from pathlib import Path

import pytest
from mask_files import PROCESSES, names

from tilesegment.files import (
    in_turn,
    locked,
    replacing,
    sweep,
    sweep_inside,
    temporary_name,
    write_atomically,
    write_files,
)


def test_of_several_files_none_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {tmp_path / name: name.encode() for name in "abc"}
    for path in files:
        path.write_text("old")
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        write_files(files)
    assert [path.read_text() for path in files] == ["a", "old", "old"]
    assert names(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def write() -> None:
        with replacing(path) as (temporary,):
            temporary.write_text("new")
            raise failure

    with pytest.raises(failure):
        write()
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["a.txt"])


@pytest.mark.parametrize("name", ["n" * 250, "nowhere/a.txt"])
def test_a_name_that_cannot_be_is_an_os_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=name[:7]):
        write_atomically(tmp_path / name, b"")


def test_what_killed_processes_leave_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "mask [1].zarr"
    temporary_name(path).mkdir()
    temporary_name(path).write_text("")
    kept = [temporary_name(tmp_path / "other.zarr").name, f".{path.name}.partial"]
    for name in kept:
        (tmp_path / name).write_text("")
    sweep(path)
    assert names(tmp_path) == sorted(kept)
    (tmp_path / "deep/er.partial").mkdir(parents=True)
    sweep_inside(tmp_path)
    assert names(tmp_path) == ["deep"] and names(tmp_path / "deep") == []


def test_a_lock_tells_whether_its_file_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with locked(path) as is_there:
        assert not is_there
    path.write_text("")
    with locked(path) as is_there:
        assert is_there
    with locked(path, shared=True) as first, locked(path, shared=True) as second:
        assert first and second
    with locked(path), pytest.raises(BlockingIOError), locked(path, shared=True):
        pass


def count_up(path: Path) -> None:
    for _ in range(50):
        with in_turn(path):
            write_atomically(path, str(int(path.read_text()) + 1).encode())


def test_processes_change_a_file_in_turn_though_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("0")
    processes = [PROCESSES.Process(target=count_up, args=(path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert path.read_text() == "150"
    with in_turn(None), in_turn(tmp_path / "nothing"):
        pass
