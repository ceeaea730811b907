"""A run that was stopped, however, goes on as if it had not been, and says why where it cannot."""

import errno
import json
import os
import signal
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
from tilesegment.model import Model
from tilesegment.training import checkpoint, run
from tilesegment.training.loop import Record

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
    with pytest.raises(DataError, match=r"is finished; there is nothing to resume \(go on from it with init\)"):
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


def test_ctrl_c_of_the_command_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tilesegment_cli.main", "train", data, "--out", out, "--steps", "100000"]
    command += ["--base", "4", "--depth", "2", "--tile", "72", "--validation", "0"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    metrics_file = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics_file.exists() and metrics_file.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"--out {out} --resume" in said
    assert "Traceback" not in said
    assert (out / "checkpoint.safetensors").exists()
    assert Model.load(out / "model.safetensors").header.training["steps"] > 0


def test_a_full_disk_keeps_the_checkpoint_before(
    data: Path, tmp_path: Path, whole: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth checkpoint finds no room; the third is still there, and the run goes on from it."""
    monkeypatch.setattr(run, "_EVERY", 0)
    monkeypatch.setattr(run, "_EVERY_WRITES", 0)
    real, written = os.fsync, []

    def fsync(file: int) -> None:
        written.append(os.fstat(file).st_size)
        if len(written) > 4:  # config.json is the first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match="No space left on device"):
            train(data, tmp_path / "run", validation=0.25)
    assert not list((tmp_path / "run").glob(".*"))
    assert same(resume(data, tmp_path / "run"), whole[0])


def test_a_run_without_a_checkpoint(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no run in .*nothing to resume; leave resume out"):
        resume(data, tmp_path / "nothing")
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(2))
    path = tmp_path / "run" / "checkpoint.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is no checkpoint of this run"):
        resume(data, tmp_path / "run")
    path.unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"holds no checkpoint\.safetensors, so there is nothing to resume"):
        resume(data, tmp_path / "run")


def test_other_settings_or_data_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", report=stop_after(2))
    changes: list[dict[str, Any]] = [{"rate": 5e-3}, {"steps": 99}, {"elastic_sigma": 3.0}, {"classes": ["a", "b"]}]
    for change in changes:
        with pytest.raises(PlanError, match=f"was begun with {next(iter(change))} .*; leave it out"):
            resume(data, tmp_path / "run", **change)
    other = write_pairs(tmp_path / "other", 5)
    with pytest.raises(DataError, match=r"is not what .* was trained on"):
        resume(other, tmp_path / "run")
    for wrong in ({"overwrite": True}, {"preset": "paper"}, {"config": "x"}):
        with pytest.raises(PlanError, match="exclude each other"):
            resume(data, tmp_path / "run", **wrong)


def test_without_a_folder_the_last_run_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"there is no run of .* in runs/ to resume"):
        tilesegment.train(data, resume=True)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tilesegment.train(data, **TOY, steps=2, report=stop_after(1))
    assert tilesegment.train(data, resume=True).folder == str(Path("runs") / "em_data-2")


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
