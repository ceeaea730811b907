"""Users whom a batch system gives no home, or one that is another's."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Run
from data_sets import write_pairs
from rights import refused

from tilesegment.prediction.int8 import folder_for

PREDICT = "predict slide.tif --model models/toy.safetensors --tile 88 --out m.zarr --preview p.png"
TRAIN = "train data --steps 1 --base 2 --depth 1 --tile 60 --validation 0 --out run"


def unknown(uid: int) -> None:
    """No entry of /etc/passwd."""
    raise KeyError(uid)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Works beside a model that lies where nothing can be written, and without a right to the home of another."""
    write_pairs(folder / "data", 2, side=64)
    (folder / "models").mkdir()
    (folder / "toy.safetensors").rename(folder / "models" / "toy.safetensors")
    (folder / "models").chmod(0o555)
    (folder / "home").mkdir(mode=0)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with refused():
        yield folder
    for name in ("models", "home"):
        (folder / name).chmod(0o700)


@pytest.mark.parametrize("home", [None, "home"], ids=["no home", "another's"])
@pytest.mark.parametrize("line", [PREDICT, TRAIN], ids=["predict", "train"])
def test_a_home_is_not_needed(
    line: str, home: str | None, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", str(here / home))
    done = run(line)
    assert done.code == 0, done.err


@pytest.mark.parametrize("home", [None, "home"], ids=["no home", "another's"])
def test_the_cache_is_not_in_the_home_of_another(home: str | None, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", str(here / home))
    found = folder_for("em-membrane")
    assert found == folder_for("em-membrane"), "the same one, so that it is found again"
    top = here / found.relative_to(here).parts[0]
    assert top.stat().st_mode & 0o777 == 0o700


class TestCache:
    """Where networks in int8 are kept if they cannot lie beside the model."""

    @pytest.fixture(autouse=True)
    def homeless(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(pwd, "getpwuid", unknown)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_a_folder_that_others_can_write_to_is_not_taken(self, tmp_path: Path) -> None:
        taken = tmp_path / f"tilesegment-{os.getuid()}"
        taken.mkdir()
        taken.chmod(0o777)
        assert taken not in folder_for("em-membrane").parents

    def test_nor_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        taken = tmp_path / f"tilesegment-{os.getuid()}"
        taken.symlink_to("elsewhere")
        assert taken not in folder_for("em-membrane").parents

    def test_a_home_that_can_be_written_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert folder_for("em-membrane") == tmp_path / ".cache" / "tilesegment" / "int8"
