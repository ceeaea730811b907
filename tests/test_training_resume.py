"""A run that was stopped, however, goes on as if it had not been, and says why where it cannot."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from data_sets import write_pairs

import tilesegment
from tilesegment import DataError, PlanError
from tilesegment.errors import FinishedError, option
from tilesegment.models.model import Model
from tilesegment.training import checkpoint, loop, run
from tilesegment.training.loop import Record, Trainer

# dropout and defects: all that is drawn is drawn the same again
TOY: dict[str, Any] = {"base": 4, "depth": 2, "tile": 72, "dropout": 0.3, "defects": 0.3, "precision": "fp32"}
STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("resume") / "em_data", 4)


def train(data: Path, out: Path, **more: Any) -> dict[str, torch.Tensor]:
    tilesegment.train(data, out, **{**TOY, "steps": STEPS, **more})
    return Model.load(out / "model.safetensors").network.state_dict()


def resume(data: Path, out: Path, **more: Any) -> dict[str, torch.Tensor]:
    """As a user would: nothing but the data, the folder and `resume`."""
    tilesegment.train(data, out, resume=True, **more)
    return Model.load(out / "model.safetensors").network.state_dict()


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights and metrics, but for the time, of a run that nothing stops."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train(data, out), metrics(out)


def metrics(out: Path) -> list[str]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({**line, "seconds": 0}) for line in lines]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(step: int) -> Any:
    def report(record: Record) -> None:
        if record.step == step:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("step", [1, 5, STEPS])
def test_ctrl_c_and_on(step: int, data: Path, tmp_path: Path, whole: tuple[Any, list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(step))
    assert same(resume(data, tmp_path / "run"), whole[0])
    assert metrics(tmp_path / "run") == whole[1]
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    with pytest.raises(FinishedError, match=r"is finished; there is nothing to resume \(go on from it with --init\)"):
        resume(data, tmp_path / "run")


def test_stopped_twice(data: Path, tmp_path: Path, whole: tuple[Any, list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(3))
    with pytest.raises(KeyboardInterrupt):
        resume(data, tmp_path / "run", report=stop_after(8))
    assert same(resume(data, tmp_path / "run", workers=1), whole[0]), "workers change nothing"
    assert metrics(tmp_path / "run") == whole[1]


def test_sgd_keeps_its_momentum(data: Path, tmp_path: Path) -> None:
    paper = {"preset": "paper", "base": 4, "depth": 2, "tile": 72}
    one = train(data, tmp_path / "one", **paper)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "two", report=stop_after(4), **paper)
    assert same(resume(data, tmp_path / "two"), one)


@pytest.mark.parametrize("step", [2, 6])
def test_running_statistics_go_on_where_they_were(step: int, data: Path, tmp_path: Path) -> None:
    """Stopped before they are frozen, and after."""
    normed = {"network": "unet-same", "base": None, "depth": None, "options": {"base": 2, "depth": 2}, "tile": 64}
    one = train(data, tmp_path / "one", **normed)
    assert any(name.endswith("running_mean") for name in one)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "two", report=stop_after(step), **normed)
    assert same(resume(data, tmp_path / "two"), one)


def test_kill_9_and_on(data: Path, tmp_path: Path, whole: tuple[Any, list[str]]) -> None:
    """Checkpoints after every update; the process dies by SIGKILL, metrics half written."""
    out = tmp_path / "run"
    code = (
        "import os, signal, sys, tilesegment\n"
        "from tilesegment.training import run\n"
        "run._EVERY = run._EVERY_WRITES = 0\n"
        "def report(record):\n"
        "    if record.step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tilesegment.train(sys.argv[1], sys.argv[2], report=report, steps={STEPS}, **{TOY!r})\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code, data, out], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "progr')
    assert same(resume(data, out), whole[0])
    assert metrics(out) == whole[1]


SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])


def begin(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """The command in a process of its own, with so many steps that it does not end by itself."""
    command = [sys.executable, "-m", "tilesegment_cli.main", "train", data, "--out", out, "--steps", "100000"]
    command += ["--base", "4", "--depth", "2", "--tile", "72", "--validation", "0", *more]
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)


@SIGNALS
def test_a_stopped_command_says_how_to_go_on(number: int, code: int, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = begin(data, out, "--resume")
    metrics_file = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics_file.exists() and metrics_file.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert f"--out {out} --resume" in said
    assert "Traceback" not in said
    assert (out / "checkpoint.safetensors").exists()
    assert Model.load(out / "model.safetensors").header.training["steps"] > 0


@SIGNALS
def test_a_command_is_stopped_before_the_first_update(number: int, code: int, data: Path, tmp_path: Path) -> None:
    """While it reads: here from a pipe, whose other end opens only once it does."""
    os.mkfifo(tmp_path / "config.json")
    process = begin(data, tmp_path / "run", "--config", str(tmp_path / "config.json"))
    with (tmp_path / "config.json").open("w"):
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert "Stopped" in said
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_the_checkpoint_before(
    data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third checkpoint finds no room; the second is still there, and the run goes on from it."""
    monkeypatch.setattr(run, "_EVERY", 0)
    monkeypatch.setattr(run, "_EVERY_WRITES", 0)
    real, written = os.fsync, []

    def fsync(file: int) -> None:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return
        written.append(file)
        if len(written) > 5:  # config.json and augmentation.png are the first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match="No space left on device"):
            train(data, tmp_path / "run", validation=0.25)
    assert not list((tmp_path / "run").glob(".*"))
    assert same(resume(data, tmp_path / "run"), whole[0])


def test_a_damaged_checkpoint_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(2))
    path = tmp_path / "run" / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        resume(data, tmp_path / "run")


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "half a config", "no checkpoint", "an earlier model"])
def test_where_nothing_is_begun_resume_begins(
    left: str, data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that one command survives being killed at any time: before the folder, within the first update, ..."""
    out = tmp_path / "run"
    if left in ("an empty folder", "half a config"):
        out.mkdir()
    if left == "half a config":
        (out / ".config.json.0123456789abcdef.partial").write_text("{")
    if left == "no checkpoint":
        monkeypatch.setattr(Trainer, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(data, out)
    if left == "an earlier model":
        train(data, out, steps=1)
        monkeypatch.setattr(Trainer, "update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(data, out, overwrite=True)
    monkeypatch.undo()
    assert not (out / "checkpoint.safetensors").exists()
    assert same(train(data, out, resume=True), whole[0])
    assert metrics(out) == whole[1]


def interrupt(*arguments: Any) -> Any:
    raise KeyboardInterrupt


def test_the_same_command_goes_on_whatever_it_names(data: Path, tmp_path: Path) -> None:
    """Also with a preset, and with the configuration of another run."""
    paper = {"preset": "paper", "base": 4, "depth": 2, "tile": 72, "steps": 4}
    one = train(data, tmp_path / "one", **paper)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "two", report=stop_after(2), resume=True, **paper)
    assert same(train(data, tmp_path / "two", resume=True, **paper), one)
    more = {"config": tmp_path / "one" / "config.json", "resume": True}
    with pytest.raises(KeyboardInterrupt):
        tilesegment.train(data, tmp_path / "three", report=stop_after(2), **more)
    tilesegment.train(data, tmp_path / "three", **more)
    assert same(Model.load(tmp_path / "three" / "model.safetensors").network.state_dict(), one)


def test_resume_takes_no_folder_of_others(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(DataError, match="holds no run to resume"):
        resume(data, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


def test_a_signal_within_an_update_waits_for_its_end(
    data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.nn.utils.clip_grad_norm_, []

    def signalled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", signalled)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run")
    assert len(calls) == 5
    assert same(resume(data, tmp_path / "run"), whole[0])
    assert metrics(tmp_path / "run") == whole[1]


def test_a_second_signal_does_not_wait_and_leaves_the_checkpoint_before(
    data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(3))
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()

    def signalled(*arguments: Any) -> Any:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", signalled)
    with pytest.raises(KeyboardInterrupt):
        resume(data, tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert same(resume(data, tmp_path / "run"), whole[0])


def test_a_look_that_was_cut_short_is_made_up_for(
    data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = loop.judge, []

    def cut(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "judge", cut)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run")
    assert same(resume(data, tmp_path / "run"), whole[0])
    assert metrics(tmp_path / "run") == whole[1]


def test_other_settings_or_data_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(2))
    changes: list[dict[str, Any]] = [{"rate": 5e-3}, {"steps": 99}, {"elastic_sigma": 3.0}, {"classes": ["a", "b"]}]
    for change in changes:
        with pytest.raises(PlanError, match=f"was begun with {option(next(iter(change)))} .*; leave it out"):
            resume(data, tmp_path / "run", **change)
    other = write_pairs(tmp_path / "other", 5)
    with pytest.raises(DataError, match=r"is not what .* was trained on"):
        resume(other, tmp_path / "run")
    with pytest.raises(PlanError, match="exclude each other"):
        resume(data, tmp_path / "run", overwrite=True)
    with pytest.raises(PlanError, match=r"was begun with .*; leave it out"):
        resume(data, tmp_path / "run", preset="paper")
    with pytest.raises(DataError, match="cannot be read as the config"):
        resume(data, tmp_path / "run", config="x")


def test_without_a_folder_the_last_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tilesegment.train(data, **TOY, steps=2, report=stop_after(1))
    assert tilesegment.train(data, resume=True).folder == str(Path("runs") / "em_data-2")
    monkeypatch.chdir(data)
    assert tilesegment.train(data, **TOY, steps=1, resume=True).folder == str(Path("runs") / "em_data")


def test_config_reproduces_the_run(data: Path, tmp_path: Path, whole: tuple[Any, list[str]]) -> None:
    train(data, tmp_path / "one", classes=["out", "in"])
    tilesegment.train(data, tmp_path / "two", config=tmp_path / "one" / "config.json")
    models = [Model.load(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert same(models[0].network.state_dict(), models[1].network.state_dict())
    assert [model.header.name for model in models] == ["one", "two"]
    assert [one.name for one in models[1].header.classes] == ["out", "in"]
    tilesegment.train(data, tmp_path / "three", config=tmp_path / "one" / "config.json", seed=5)
    assert not same(
        models[0].network.state_dict(), Model.load(tmp_path / "three/model.safetensors").network.state_dict()
    )


def test_only_whole_checkpoints_are_taken(data: Path, tmp_path: Path) -> None:
    """A checkpoint of another network does not fit."""
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(1))
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    path = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.save_checkpoint(
        path, {"network": one, "average": other}, torch.optim.AdamW(one.parameters()), {"step": 1}
    )
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        resume(data, tmp_path / "run")
