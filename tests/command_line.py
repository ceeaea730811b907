"""What the tests of the command line share: running a line, and a folder to run it in."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tifffile
from conftest import noise, toy_model
from PIL import Image

from tilesegment_cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tileseg` with a line of arguments, and more that may hold spaces, as the installed command does."""

    def run(line: str, *more: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tileseg", *line.split(), *more])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            logging.disable(logging.NOTSET)
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


def fill(folder: Path) -> None:
    """Writes slide.tif, stack.tif, rgb.png, a model of one channel and one of three."""
    tifffile.imwrite(folder / "slide.tif", noise((130, 150)), tile=(64, 64), compression="zlib")
    tifffile.imwrite(folder / "stack.tif", noise((5, 40, 50)), photometric="minisblack")
    Image.fromarray(noise((40, 50, 3))).save(folder / "rgb.png")
    toy_model().save(folder / "toy.safetensors")
    toy_model(channels=3).save(folder / "rgb.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under its final name."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".partial" not in str(path))
    return {str(path): path.read_bytes() for path in files}
