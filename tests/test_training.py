"""The training loop on toy data: it learns, it repeats itself, it ends in time, it leaves what it should."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from data_sets import write_pairs, write_stack
from PIL import Image

import tilesegment
from tilesegment import DataError, DeviceError, ModelError, PlanError
from tilesegment.models.model import Model
from tilesegment.training import TrainingRun
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Record, Trainer
from tilesegment.training.settings import TrainingSettings
from tilesegment.training.validation import Validation, judge
from tilesegment_cli.main import tileseg

TOY: dict[str, Any] = {"base": 4, "depth": 2, "tile": 72, "dropout": 0.0, "precision": "fp32"}


def toy_run(data: Path, out: Path, **settings: Any) -> TrainingRun:
    return tilesegment.train(data, out, **{**TOY, "steps": 3, **settings})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("training") / "em_data", 5)


@pytest.fixture(scope="module")
def learnt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, list[Record]]:
    """A run that is long enough to learn something easy."""
    records: list[Record] = []
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    settings = {"steps": 90, "rate": 3e-3, "batch": 2, "classes": ["outside", "inside"]}
    return toy_run(data, folder, report=records.append, **settings), records


def test_it_learns(learnt: tuple[TrainingRun, list[Record]]) -> None:
    run, records = learnt
    losses = [record.loss for record in records]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert run.scores is not None
    assert run.scores.accuracy > run.scores.floor + 0.25
    assert run.scores.accuracy > 0.9
    assert (run.scores.goal, run.scores.v_rand) == ("dice", None), "the blobs are too few to be cells"
    assert run.scores.value == run.scores.dice[1] > run.scores.floor_value + 0.15
    assert run.tta is not None
    assert run.tta.accuracy > 0.9


def test_the_stored_model_scores_what_the_run_says(learnt: tuple[TrainingRun, list[Record]], data: Path) -> None:
    """Through the command that a user would give: predict the held-out image from its file, compare with its label."""
    run, out = learnt[0], data.parent / "mask.png"
    assert run.scores is not None
    tilesegment.predict(data / "images" / "04.png", out, run.model, tile=72, precision="fp32")
    truth = np.asarray(Image.open(data / "labels" / "04.png")) > 0
    accuracy = np.mean(np.asarray(Image.open(out)).astype(bool) == truth)
    assert accuracy == pytest.approx(run.scores.accuracy, abs=1e-6)


def test_the_model_records_how_it_was_made(learnt: tuple[TrainingRun, list[Record]]) -> None:
    header = Model.load(learnt[0].model).header
    assert [(one.name, one.value) for one in header.classes] == [("outside", 0), ("inside", 255)]
    assert header.normalisation.dtype == "uint8"
    assert header.arguments == {"in_channels": 1, "classes": 2, "depth": 2, "base": 4, "dropout": 0.0}
    record = header.training
    assert record["steps"] == 90
    assert (record["sections"], record["held_out"]) == (["00", "01", "02", "03"], ["04"])
    assert record["settings"]["seed"] == 0
    assert record["settings"]["augmentation"]["elastic_sigma"] == 10
    assert record["scores"]["accuracy"] == learnt[0].scores.accuracy
    assert tilesegment.describe(learnt[0].model)["scores"] == json.loads(json.dumps(record["scores"]))


def test_metrics_and_curves(learnt: tuple[TrainingRun, list[Record]]) -> None:
    run, records = learnt
    folder = Path(run.folder)
    pictures = {"curves.png", "samples.png", "augmentation.png"}
    rest = {"model.safetensors", "metrics.jsonl", "config.json", "report.html"}
    assert {path.name for path in folder.iterdir()} == pictures | rest
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [record.loss for record in records]
    assert [line["step"] for line in lines] == list(range(1, 91))
    assert sum(line["scores"] is not None for line in lines) == 6
    assert lines[-1]["progress"] == 1
    rates = [line["rate"] for line in lines]
    assert max(rates) == pytest.approx(3e-3, rel=0.01)
    assert rates[0] < rates[3] > rates[-1]
    with Image.open(folder / "curves.png") as picture:
        picture.load()
        assert picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def weights(run: TrainingRun) -> dict[str, torch.Tensor]:
    return Model.load(run.model).network.state_dict()


def test_steps_make_a_run_reproducible(data: Path, tmp_path: Path) -> None:
    random = {"dropout": 0.3, "validation": 0}
    one, again = (weights(toy_run(data, tmp_path / name, **random)) for name in ("one", "again"))
    other = weights(toy_run(data, tmp_path / "other", seed=1, **random))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_runs_are_named_after_the_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [tilesegment.train(data, validation=0, **{**TOY, "steps": 1}).folder for _ in range(3)]
    assert found == [str(Path("runs") / name) for name in ("em_data", "em_data-2", "em_data-3")]
    assert Model.load("runs/em_data-2/model.safetensors").header.name == "em_data-2"


def test_a_stack_with_four_classes_and_nothing_held_out(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "d", 2)
    label = np.random.default_rng(0).integers(0, 4, (2, 60, 60), np.uint8)
    tifffile.imwrite(folder / "labels" / "volume.tif", label, photometric="minisblack")
    run = toy_run(folder, tmp_path / "run", validation=0, steps=2)
    assert run.scores is None
    header = Model.load(run.model).header
    assert len(header.classes) == 4
    assert header.training["held_out"] == []
    assert header.training["sections"] == ["volume[0]", "volume[1]"]


def test_scores_of_several_classes_have_no_regions(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 3)
    for path in (folder / "labels").iterdir():
        Image.fromarray(np.random.default_rng(0).integers(0, 3, (80, 80), np.uint8)).save(path)
    scores = toy_run(folder, tmp_path / "run").scores
    assert scores is not None
    assert scores.v_rand is None
    assert len(scores.iou) == 3


class TestStopped:
    """Ctrl-C, and a loss that is no number any more."""

    def stop_after(self, step: int) -> Any:
        def report(record: Record) -> None:
            if record.step == step:
                raise KeyboardInterrupt

        return report

    def test_ctrl_c_keeps_the_model_so_far(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            toy_run(data, tmp_path / "run", steps=50, report=self.stop_after(2))
        assert Model.load(tmp_path / "run" / "model.safetensors").header.training["steps"] == 2
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
        assert (tmp_path / "run" / "curves.png").exists()
        assert (tmp_path / "run" / "checkpoint.safetensors").exists()

    def test_a_model_is_there_from_the_first_look_at_the_held_out(self, data: Path, tmp_path: Path) -> None:
        seen: list[bool] = []
        path = tmp_path / "run" / "model.safetensors"
        toy_run(data, tmp_path / "run", steps=6, report=lambda record: seen.append(path.exists()))
        assert all(seen)

    def test_a_loss_that_is_no_number(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"the loss became \w+ in step \d+; try a lower --lr"):
            toy_run(data, tmp_path / "run", steps=40, rate=10, brightness=1e38)

    def test_a_network_that_says_one_class_everywhere(self, data: Path, tmp_path: Path) -> None:
        """A rate that does nothing, from a start that says class 1 whatever it sees."""
        trainer = Trainer(open_dataset(data), TrainingSettings(steps=130, rate=1e-9, **TOY))
        with torch.no_grad():
            trainer.network.head.bias.copy_(torch.tensor([-50.0, 50.0]))
        with pytest.raises(DataError, match="has predicted one class everywhere for 100 updates and learns nothing"):
            list(trainer.run())


class TestRefused:
    """What cannot be is refused before a folder is made."""

    @pytest.mark.parametrize(
        ("settings", "error", "match"),
        [
            ({"tile": 71}, PlanError, "tile 71 does not fit the network; the nearest that do are 68 and 72"),
            ({"budget": 9.0, "steps": 9}, PlanError, "--budget and --steps exclude each other"),
            ({"steps": 0}, PlanError, "steps is 0; allowed: 1 to inf"),
            ({"steps": None, "budget": float("nan")}, PlanError, "budget is nan"),
            ({"batch": 0}, PlanError, "batch is 0"),
            ({"rate": -1.0}, PlanError, "rate is -1"),
            ({"validation": 1.0}, PlanError, "validation is 1.0; allowed: 0 to 0.9"),
            ({"seed": -1}, PlanError, "seed is -1"),
            ({"depth": 9}, ModelError, "depth is 9; allowed: 1 to 7"),
            ({"base": 0}, ModelError, "base is 0"),
            ({"device": "cuda:7"}, DeviceError, "device 'cuda:7' is not here"),
            ({"precision": "fp64"}, PlanError, "precision 'fp64' cannot be trained with; allowed: auto, fp32"),
            ({"optimiser": "lion"}, PlanError, "optimiser 'lion' cannot be trained with; allowed: muon, adamw, sgd"),
            ({"goal": "f1"}, PlanError, "goal 'f1' cannot be trained with; allowed: auto, v_rand, dice, miou"),
            ({"epochs": 3}, PlanError, "--steps and --epochs exclude each other"),
            ({"momentum": 3}, PlanError, "there is no setting 'momentum'; there are: augmentation, base, "),
            ({"loss": "mse"}, PlanError, "loss 'mse' is unknown; allowed: ce, bce, "),
            ({"elastic_sigma": -1.0}, PlanError, "--elastic-sigma is -1.0; allowed: 0 to"),
            ({"scale": 0.7}, PlanError, "scale is 0.7; allowed: 1, 0.5, 0.333"),
            ({"scale": 0.5, "tile": 71}, PlanError, "at scale 0.5 it is a multiple of 2"),
            ({"preset": "unknown"}, PlanError, "no preset is called 'unknown'; there are: paper"),
            ({"config": "nothing.json"}, DataError, "nothing.json cannot be read as the config.json of a run"),
            ({"validation": ("99",)}, DataError, "99"),
            ({"class_weights": "balanced"}, PlanError, "--class-weights 'balanced'; allowed: auto"),
            ({"class_weights": (1.0,)}, PlanError, "expected 2 positive numbers, one a class"),
            ({"class_weights": (1.0, -1.0)}, PlanError, "expected 2 positive numbers"),
            ({"init": "nothing.safetensors"}, ModelError, "no model nothing.safetensors"),
            ({"classes": ["one"]}, DataError, "expected 2 different names"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], error: type, match: str, data: Path, tmp_path: Path) -> None:
        with pytest.raises(error, match=match) as caught:
            toy_run(data, tmp_path / "run", **settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_a_folder_that_is_not_empty(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "model.safetensors").write_bytes(b"precious")
        with pytest.raises(
            DataError, match="exists and is not empty; go on with --resume, replace it with --overwrite"
        ):
            toy_run(data, tmp_path / "run")
        with pytest.raises(PlanError, match="tile 71"):
            toy_run(data, tmp_path / "run", overwrite=True, tile=71)
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == b"precious"
        assert toy_run(data, tmp_path / "run", overwrite=True).steps == 3
        assert Model.load(tmp_path / "run" / "model.safetensors").header.training["steps"] == 3

    def test_a_folder_that_is_a_file_or_cannot_be_made(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match="is a file; name a folder"):
            toy_run(data, tmp_path / "file")
        with pytest.raises(DataError, match="cannot be written"):
            toy_run(data, tmp_path / "file" / "run")


def test_a_run_on_real_sections_beats_the_floor(isbi: Path, tmp_path: Path) -> None:
    """Four sections, a network of a few thousand weights, seconds: enough to tell membranes from cells."""
    folder = tmp_path / "few"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for path in sorted((isbi / part).iterdir())[:4]:
            with Image.open(path) as picture:
                picture.crop((0, 0, 256, 256)).save(folder / part / f"{path.stem}.png")
    run = toy_run(folder, tmp_path / "run", steps=60, tile=136, base=8, classes=["membrane", "inside"])
    assert run.scores is not None
    assert run.scores.value > run.scores.floor_value + 0.5


def test_every_update_keeps_an_average(data: Path) -> None:
    """Early on it follows closely, so that a short run is not half its random beginning."""
    trainer = Trainer(open_dataset(data), TrainingSettings(steps=8, **TOY))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    assert [record.step for record in trainer.run()] == list(range(1, 9))
    now, mean = trainer.network.state_dict(), trainer.model().network.state_dict()
    for name, value in now.items():
        assert 0 < (value - mean[name]).norm() < (value - before[name]).norm(), name


def test_the_model_is_the_best_of_the_looks(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal ones the later; what is trained goes on from where it is."""
    values = iter([0.1, 0.5, 0.5, 0.3, 0.2, 0.4])

    def scored(*where: Any) -> Validation:
        found = judge(*where)
        return Validation(replace(found.scores, value=next(values)), found.masks)

    monkeypatch.setattr("tilesegment.training.loop.judge", scored)
    trainer = Trainer(open_dataset(data), TrainingSettings(steps=12, **TOY))
    averages = {}
    for record in trainer.run():
        if record.scores is not None:
            averages[record.step] = {name: value.clone() for name, value in trainer.average.module.state_dict().items()}
    assert list(averages) == [2, 4, 6, 8, 10, 12]
    model = trainer.model()
    assert trainer.kept_step == model.header.training["kept_step"] == 6
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, averages[6][name]), name
    assert any(not torch.equal(averages[6][name], averages[12][name]) for name in averages[6])


def test_training_goes_on_from_a_model(learnt: tuple[TrainingRun, list[Record]], data: Path, tmp_path: Path) -> None:
    """From the first step on it is as good as the model was, which random weights are not."""
    first = learnt[0]
    assert first.scores is not None
    shape = {"base": None, "depth": None, "classes": ["outside", "inside"], "rate": 1e-6}
    run = toy_run(data, tmp_path / "run", init=first.model, **shape)
    assert run.scores is not None
    assert run.scores.accuracy == pytest.approx(first.scores.accuracy, abs=0.01)
    header, start = Model.load(run.model).header, Model.load(first.model).header
    assert header.normalisation == start.normalisation
    assert header.training["init"]["weights_sha256"] == start.weights_sha256
    assert header.training["init"]["training"]["steps"] == first.steps


def test_training_goes_on_from_a_model_of_other_classes(
    learnt: tuple[TrainingRun, list[Record]], data: Path, tmp_path: Path
) -> None:
    """What it knows of images is kept, what it says of them is learnt anew."""
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data" / "labels").iterdir():
        label = np.asarray(Image.open(path))
        Image.fromarray(np.where(label == 0, 0, 1 + (np.arange(label.shape[1]) > 48)).astype(np.uint8)).save(path)
    out, settings = tmp_path / "run", "--steps 1 --lr 1e-6 --validation 0 --tile 72 --precision fp32"
    given = [str(tmp_path / "data"), "--out", str(out), "--init", learnt[0].model, *settings.split()]
    found = CliRunner().invoke(tileseg, ["train", *given])
    assert f"{learnt[0].model} tells other classes apart; begun at random: head\n" in found.stderr
    model, start = Model.load(out / "model.safetensors"), Model.load(learnt[0].model).network.state_dict()
    assert model.header.arguments["classes"] == 3
    assert model.header.training["init"]["anew"] == ["head"]
    for name, value in model.network.state_dict().items():
        assert name.startswith("head") or torch.allclose(value, start[name], atol=1e-3), name


@pytest.mark.parametrize("settings", [{"base": 8}, {"depth": 3, "tile": 60}])
def test_a_model_of_another_size_is_no_start(
    settings: dict[str, Any], learnt: tuple[TrainingRun, list[Record]], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=r"init .* has (base 4|depth 2); leave out --(base|depth)"):
        toy_run(data, tmp_path / "run", init=learnt[0].model, **settings)
    assert not (tmp_path / "run").exists()


def test_a_heavy_class_is_found_more_often(data: Path, tmp_path: Path) -> None:
    """The same run, once with ten times the weight on class 0 and once on class 1."""
    counts = []
    for weights in ((10.0, 1.0), (1.0, 10.0)):
        # a threshold that the held-out image chose would make up for the weights
        settings = {"steps": 20, "rate": 1e-3, "class_weights": weights, "threshold": 0.5}
        run = toy_run(data, tmp_path / str(weights[0]), **settings)
        out = tmp_path / f"{weights[0]}.png"
        tilesegment.predict(data / "images" / "04.png", out, run.model, tile=72)
        counts.append(np.mean(np.asarray(Image.open(out)) == 0))
    assert counts[0] > counts[1]
