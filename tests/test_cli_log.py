"""The log of `--log-file`, time stamps where nobody watches, colours, and watching a mask that is made."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment_cli import status as watching

STAMP = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_printed_is_in_the_log_with_the_time(run: Run) -> None:
    """Results, notes and errors, of one command after the other."""
    printed = run("networks --log-file run.log").out
    error = run("--log-file run.log info missing.tif").err
    lines = Path("run.log").read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    said = [line[20:] for line in lines]
    wanted = ["tileseg networks --log-file run.log", *printed.splitlines()]
    assert said == [*wanted, "tileseg --log-file run.log info missing.tif", *error.splitlines()]


def test_the_log_may_be_named_by_a_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILESEG_LOG_FILE", "mine.log")
    run("models")
    assert "em-membrane" in Path("mine.log").read_text()


def test_progress_is_stamped_in_the_log_and_where_nobody_watches(run: Run) -> None:
    make_mask("m.zarr", 4).finish()
    plain = run("status m.zarr --watch")
    assert re.fullmatch(rf"{STAMP} \S*m.zarr: complete, 4 blocks\n", plain.err)
    logged = run("status m.zarr --watch --log-file w.log")
    assert re.fullmatch(r"\S*m.zarr: complete, 4 blocks\n", logged.err)
    assert re.search(rf"^{STAMP} \S*m.zarr: complete, 4 blocks$", Path("w.log").read_text(), re.M)


@pytest.mark.parametrize("path", ["no/run.log", "folder", "nul"])
def test_a_log_that_cannot_be_written_is_named(path: str, run: Run) -> None:
    Path("folder").mkdir()
    found = run("models --log-file", "a\0b" if path == "nul" else path)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert "--log-file" in found.err


PROGRAM = """
import sys, time
import click
from tilesegment_cli.log import Log
from tilesegment_cli.progress import ProgressReport
with click.Context(click.Command("x")), Log("bar.log", ["x"]), ProgressReport(False) as progress:
    progress.show(0.5, "half of it", 1.0)
    progress.line("a line that stays")
    click.echo("an error", err=True)
    time.sleep(0.3)
"""


def on_a_terminal(program: str, **more: str) -> str:
    """What a Python program writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**kept, "TERM": "xterm-256color", "COLUMNS": "100", **more}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait() == 0, printed
    return printed.decode()


def test_colours_end_with_no_color_and_the_log_holds_no_bar() -> None:
    colour = re.compile(r"\x1b\[[\d;]*(3[0-7]|38;[\d;]+)m")
    shown = on_a_terminal(PROGRAM)
    assert colour.search(shown) and "half of it" in shown and "a line that stays" in shown
    said = [line[20:] for line in Path("bar.log").read_text().splitlines()]
    assert said == ["tileseg x", "a line that stays", "an error"]
    assert not colour.search(on_a_terminal(PROGRAM, NO_COLOR="1"))


def make_mask(path: str, blocks: int):
    """A mask of so many blocks, all of which are stored."""
    writer = create_mask(path, MaskSpec((64, 64 * blocks), None, 64, 64, (LabelClass("a", "#000000"),), None))
    with writer.claimed():
        for n in range(blocks):
            writer.write(Region(0, 64 * n, 64, 64 * n + 64), np.zeros((64, 64), np.uint8))
    return writer


def test_a_mask_is_watched_until_it_is_complete(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSE", 0.05)
    writer = create_mask("m.zarr", MaskSpec((64, 192), None, 64, 64, (LabelClass("a", "#000000"),), None))

    def work() -> None:
        with writer.claimed():
            for n in range(3):
                writer.write(Region(0, 64 * n, 64, 64 * n + 64), np.zeros((64, 64), np.uint8))
                time.sleep(0.4)
            writer.finish()

    worker = threading.Thread(target=work)
    worker.start()
    found = run("status m.zarr --watch")
    worker.join()
    assert found.code == 0
    lines = [line[20:].partition(": ")[2] for line in found.err.splitlines()]
    assert lines[-1] == "complete, 3 blocks" and len(lines) >= 3
    assert any(re.match(r"(33|66) %, [12] of 3 blocks", line) for line in lines)


def test_ctrl_c_ends_the_watch_in_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    create_mask("m.zarr", MaskSpec((64, 192), None, 64, 64, (LabelClass("a", "#000000"),), None))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupted)
    found = run("status m.zarr --watch --json")
    assert (found.code, found.out) == (130, "")
    assert found.err.split("\n")[-4:] == ["The watch has ended; what writes the masks goes on.", "", "Stopped.", ""]
