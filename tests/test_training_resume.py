"""A run that was stopped, however, goes on as if it had not been, and says why where it cannot."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from data_sets import write_pairs
from toy_training import TOY, same, stop_after, weights

import tilesegment
from tilesegment import DataError, PlanError
from tilesegment.errors import FinishedError, option
from tilesegment.models.model import Model
from tilesegment.training import loop
from tilesegment.training.checkpoint import save_checkpoint
from tilesegment.training.loop import Trainer

pytestmark = pytest.mark.usefixtures("without_curves")

# dropout and defects: all that is drawn is drawn the same again
SETTINGS: dict[str, Any] = {**TOY, "dropout": 0.3, "defects": 0.3, "steps": 6}
PAPER: dict[str, Any] = {"preset": "paper", "base": 4, "depth": 2, "tile": 72}
NORMED: dict[str, Any] = {"network": "unet-same", "base": 2, "depth": 2, "dropout": None, "tile": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("resume") / "em_data", 4)


def train(data: Path, out: Path, **more: Any) -> dict[str, torch.Tensor]:
    tilesegment.train(data, out, **{**SETTINGS, **more})
    return weights(out)


def resume(data: Path, out: Path, **more: Any) -> dict[str, torch.Tensor]:
    """As a user would: nothing but the data, the folder and `resume`."""
    tilesegment.train(data, out, resume=True, **more)
    return weights(out)


def stopped(data: Path, out: Path, step: int, **more: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, out, report=stop_after(step), **more)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": 0} for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stops."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(data, out)
    return out


@pytest.fixture
def ends_alike(whole: Path) -> Callable[[dict[str, torch.Tensor], Path], bool]:
    """Whether weights and metrics are those of the run that nothing stops."""
    return lambda found, out: same(found, weights(whole)) and metrics(out) == metrics(whole)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_ctrl_c_and_on(step: int, data: Path, tmp_path: Path, ends_alike: Any) -> None:
    stopped(data, tmp_path / "run", step)
    assert Model.load(tmp_path / "run").header.training["steps"] == step
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert ends_alike(resume(data, tmp_path / "run"), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    with pytest.raises(FinishedError, match="--init"):
        resume(data, tmp_path / "run")


def test_stopped_twice(data: Path, tmp_path: Path, ends_alike: Any) -> None:
    stopped(data, tmp_path / "run", 3)
    with pytest.raises(KeyboardInterrupt):
        resume(data, tmp_path / "run", report=stop_after(4))
    assert ends_alike(resume(data, tmp_path / "run", workers=1), tmp_path / "run"), "workers change nothing"


@pytest.mark.parametrize(("settings", "step"), [(PAPER, 3), (NORMED, 3)], ids=["sgd", "norm"])
def test_moments_and_running_statistics_go_on(settings: dict[str, Any], step: int, data: Path, tmp_path: Path) -> None:
    """And the same command goes on, whatever it names."""
    settings = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not None}
    tilesegment.train(data, tmp_path / "one", **settings)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tilesegment.train(data, tmp_path / "two", resume=True, report=stop_after(step), **settings)
        step += 1
    tilesegment.train(data, tmp_path / "two", resume=True, **settings)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_kill_9_and_on(data: Path, tmp_path: Path, ends_alike: Any) -> None:
    """Checkpoints after every update; the process dies by SIGKILL, metrics half written."""
    out = tmp_path / "run"
    code = (
        "import os, signal, sys, tilesegment\n"
        "def report(record):\n"
        "    if record.step == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tilesegment.train(sys.argv[1], sys.argv[2], report=report, checkpoint_every=0, **{SETTINGS!r})\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code, data, out], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "progr')
    assert ends_alike(resume(data, out), out)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("reading", [False, True])
def test_a_command_is_stopped(number: int, code: int, reading: bool, data: Path, tmp_path: Path) -> None:
    """While it trains; and while it reads, here from a pipe, whose other end opens only once it does."""
    command = [sys.executable, "-m", "tilesegment_cli.main", "train", data, "--out", tmp_path / "run", "--resume"]
    command += ["--steps", "100000", "--base", "4", "--depth", "2", "--tile", "72", "--validation", "0"]
    pipe, lines = tmp_path / "config.json", tmp_path / "run" / "metrics.jsonl"
    os.mkfifo(pipe)
    command += ["--config", pipe] if reading else []
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    if reading:
        with pipe.open("w"):
            process.send_signal(number)
            _, said = process.communicate(timeout=300)
        assert "Stopped" in said and not (tmp_path / "run").exists()
    else:
        deadline = time.monotonic() + 300
        while not (lines.exists() and lines.stat().st_size > 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        assert f"--out {tmp_path / 'run'} --resume" in said
        assert (tmp_path / "run" / "checkpoint.safetensors").exists()
        assert Model.load(tmp_path / "run").header.training["steps"] > 0
    assert process.returncode == code, said
    assert "Traceback" not in said


def test_a_full_disk_keeps_the_checkpoint_before(
    data: Path, tmp_path: Path, ends_alike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room when there is a checkpoint already; the run goes on from it."""
    checkpoint, real = tmp_path / "run" / "checkpoint.safetensors", os.fsync

    def fsync(file: int) -> None:
        if checkpoint.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match="No space left on device"):
            train(data, tmp_path / "run", checkpoint_every=0)
    assert not list((tmp_path / "run").glob(".*"))
    assert ends_alike(resume(data, tmp_path / "run"), tmp_path / "run")


def test_a_checkpoint_that_is_damaged_or_of_another_network_is_refused(data: Path, tmp_path: Path) -> None:
    stopped(data, tmp_path / "run", 2)
    path = tmp_path / "run" / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"checkpoint.safetensors .*--overwrite"):
        resume(data, tmp_path / "run")
    other = torch.nn.Linear(2, 2)
    save_checkpoint(path, {"network": other}, torch.optim.AdamW(other.parameters()), {"step": 1})
    with pytest.raises(DataError, match=r"checkpoint.safetensors .*--overwrite"):
        resume(data, tmp_path / "run")


def interrupt(*arguments: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("left", ["half a config", "no checkpoint", "an earlier model"])
def test_where_nothing_is_begun_resume_begins(
    left: str, data: Path, tmp_path: Path, ends_alike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one command survives being killed at any time: before the folder, within the first update, ..."""
    out = tmp_path / "run"
    if left == "half a config":
        out.mkdir()
        (out / ".config.json.4711").write_text("{")
    if left == "an earlier model":
        train(data, out, steps=1)
    if left in ("no checkpoint", "an earlier model"):
        with monkeypatch.context() as cut:
            cut.setattr(Trainer, "update", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(data, out, overwrite=True)
    assert not (out / "checkpoint.safetensors").exists()
    assert ends_alike(train(data, out, resume=True), out)


def test_a_signal_within_an_update_waits_for_its_end_and_a_second_one_does_not(
    data: Path, tmp_path: Path, ends_alike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls, count = torch.nn.utils.clip_grad_norm_, [], 1

    def signalled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            for _ in range(count):
                signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run")
    assert Model.load(tmp_path / "run").header.training["steps"] == 3
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    calls, count = [], 2
    with pytest.raises(KeyboardInterrupt):
        resume(data, tmp_path / "run")
    assert len(calls) == 3
    monkeypatch.undo()
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() != before, "a look came between"
    assert ends_alike(resume(data, tmp_path / "run"), tmp_path / "run")


def test_a_look_that_was_cut_short_is_made_up_for(
    data: Path, tmp_path: Path, ends_alike: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.judge, []

    def cut(*arguments: Any) -> Any:
        calls.append(1)
        return interrupt() if len(calls) == 2 else real(*arguments)

    monkeypatch.setattr(loop, "judge", cut)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run")
    assert ends_alike(resume(data, tmp_path / "run"), tmp_path / "run")


def test_other_settings_data_or_folders_are_refused(data: Path, tmp_path: Path) -> None:
    stopped(data, tmp_path / "run", 2)
    for change in ({"rate": 5e-3}, {"steps": 99}, {"elastic_sigma": 3.0}, {"classes": ["a", "b"]}):
        with pytest.raises(PlanError, match=option(next(iter(change)))):
            resume(data, tmp_path / "run", **change)
    with pytest.raises(DataError, match=f"{tmp_path / 'run'} .*--out"):
        resume(write_pairs(tmp_path / "other", 5), tmp_path / "run")
    with pytest.raises(PlanError, match="--resume and --overwrite"):
        resume(data, tmp_path / "run", overwrite=True)
    with pytest.raises(DataError, match=r"\bx\b"):
        resume(data, tmp_path / "run", config="x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("mine")
    with pytest.raises(DataError, match="no run to resume"):
        resume(data, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious"]


def test_without_a_folder_the_last_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tilesegment.train(data, **TOY, steps=2, report=stop_after(1))
    run = tilesegment.train(data, resume=True)
    assert (run.folder, Model.load(run.model).header.name) == ("runs/em_data-2", "em_data-2")
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert tilesegment.train(data, **TOY, steps=1, resume=True).folder == str(Path("runs") / "em_data")


def test_config_reproduces_the_run(data: Path, tmp_path: Path) -> None:
    one = train(data, tmp_path / "one", classes=["out", "in"], steps=3)
    tilesegment.train(data, tmp_path / "two", config=tmp_path / "one" / "config.json")
    tilesegment.train(data, tmp_path / "three", config=tmp_path / "one" / "config.json", seed=5)
    assert same(one, weights(tmp_path / "two")) and not same(one, weights(tmp_path / "three"))
    header = Model.load(tmp_path / "two").header
    assert (header.name, [one.name for one in header.classes]) == ("two", ["out", "in"])
