"""Training on toy data: it learns, it repeats itself, it leaves what it should, it refuses what cannot be."""

import ctypes
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from data_sets import write_pairs, write_stack
from PIL import Image
from torch import nn
from toy_training import TOY, same, stop_after, toy_run, weights

import tilesegment
from tilesegment import DataError, DeviceError, ModelError, PlanError
from tilesegment.models.model import Model
from tilesegment.training import TrainingRun
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Record, Trainer
from tilesegment.training.settings import TrainingSettings
from tilesegment.training.validation import Validation, judge


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("training") / "em_data", 5)


@pytest.fixture(scope="module")
def learnt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, list[Record]]:
    """A run that is long enough to learn something easy."""
    records: list[Record] = []
    folder = tmp_path_factory.mktemp("runs") / "learnt"
    settings = {"steps": 60, "rate": 6e-3, "batch": 2, "classes": ["outside", "inside"]}
    return toy_run(data, folder, report=records.append, **settings), records


def mask_of(image: Path, out: Path, model: str | Model, **more: Any) -> np.ndarray:
    tilesegment.predict(image, out, model, precision="fp32", **more)
    return np.asarray(Image.open(out)).astype(bool)


def truth_of(data: Path, name: str = "04") -> np.ndarray:
    return np.asarray(Image.open(data / "labels" / f"{name}.png")) > 0


def test_it_learns_and_the_stored_model_scores_what_the_run_says(
    learnt: tuple[TrainingRun, list[Record]], data: Path, tmp_path: Path
) -> None:
    """Through what a user would call: predict the held-out image from its file, compare with its label."""
    run, records = learnt
    losses, scores = [record.loss for record in records], run.scores
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert scores is not None and run.tta is not None
    assert min(scores.accuracy, run.tta.accuracy) > max(scores.floor + 0.25, 0.9)
    assert (scores.goal, scores.v_rand) == ("dice", None), "the blobs are too few to be cells"
    assert scores.value == scores.dice[1] > scores.floor_value + 0.15
    mask = mask_of(data / "images" / "04.png", tmp_path / "mask.png", run.model, tile=72)
    assert np.mean(mask == truth_of(data)) == pytest.approx(scores.accuracy, abs=1e-6)


def test_the_folder_holds_the_model_its_record_and_what_is_known(learnt: tuple[TrainingRun, list[Record]]) -> None:
    run, records = learnt
    folder, header = Path(run.folder), Model.load(run.model).header
    files = {"model.safetensors", "metrics.jsonl", "config.json", "report.html"}
    assert {path.name for path in folder.iterdir()} == files | {"curves.png", "samples.png", "augmentation.png"}
    assert [(one.name, one.value) for one in header.classes] == [("outside", 0), ("inside", 255)]
    assert header.normalisation.dtype == "uint8"
    assert header.arguments == {"in_channels": 1, "classes": 2, "depth": 2, "base": 4, "dropout": 0.0}
    record = header.training
    assert (record["steps"], record["sections"], record["held_out"]) == (60, ["00", "01", "02", "03"], ["04"])
    assert record["settings"]["augmentation"]["elastic_sigma"] == 10
    assert tilesegment.describe(run.model)["scores"] == json.loads(json.dumps(record["scores"]))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(record.step, record.loss) for record in records]
    assert sum(line["scores"] is not None for line in lines) == 6
    rates = [line["rate"] for line in lines]
    assert max(rates) == pytest.approx(6e-3, rel=0.01)
    assert rates[0] < rates[3] > rates[-1] and lines[-1]["progress"] == 1


@pytest.mark.usefixtures("without_curves")
class TestRuns:
    """What a run makes."""

    def test_steps_make_it_reproducible(self, data: Path, tmp_path: Path) -> None:
        random = {"dropout": 0.3, "validation": 0}
        one, again = (weights(toy_run(data, tmp_path / name, **random).model) for name in ("one", "again"))
        assert same(one, again)
        assert not same(one, weights(toy_run(data, tmp_path / "other", seed=1, **random).model))

    def test_it_is_named_after_the_data(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        found = [tilesegment.train(data, validation=0, **{**TOY, "steps": 1}).folder for _ in range(2)]
        assert found == [str(Path("runs") / name) for name in ("em_data", "em_data-2")]
        assert Model.load(found[1]).header.name == "em_data-2"

    def test_a_stack_with_three_classes(self, tmp_path: Path) -> None:
        folder = write_stack(tmp_path / "d", 3)
        label = np.random.default_rng(0).integers(0, 3, (3, 60, 60), np.uint8)
        tifffile.imwrite(folder / "labels" / "volume.tif", label, photometric="minisblack")
        run = toy_run(folder, tmp_path / "run", validation=0, steps=1)
        record = Model.load(run.model).header.training
        assert (run.scores, record["held_out"]) == (None, [])
        assert record["sections"] == ["volume[0]", "volume[1]", "volume[2]"]
        run = toy_run(folder, tmp_path / "other", validation=("volume[1]",), steps=1)
        assert run.scores is not None
        assert (run.scores.goal, run.scores.v_rand, len(run.scores.iou)) == ("miou", None, 3)
        assert Model.load(run.model).header.training["held_out"] == ["volume[1]"]

    def test_a_model_is_there_from_the_first_look_on(self, data: Path, tmp_path: Path) -> None:
        seen: list[bool] = []
        toy_run(data, tmp_path / "run", report=lambda _: seen.append((tmp_path / "run/model.safetensors").exists()))
        assert all(seen)

    @pytest.mark.slow
    def test_a_heavy_class_is_found_more_often(self, data: Path, tmp_path: Path) -> None:
        """The same run, once with ten times the weight on class 0 and once on class 1."""
        shares = []
        for heavy in ((10.0, 1.0), (1.0, 10.0)):
            # a threshold that the held-out image chose would make up for the weights
            settings = {"steps": 20, "rate": 1e-3, "class_weights": heavy, "threshold": 0.5}
            run = toy_run(data, tmp_path / str(heavy[0]), **settings)
            shares.append(mask_of(data / "images" / "04.png", tmp_path / f"{heavy[0]}.png", run.model).mean())
        assert shares[0] < shares[1]

    @pytest.mark.slow
    def test_the_papers_recipe_learns(self, data: Path, tmp_path: Path) -> None:
        run = toy_run(data, tmp_path / "run", preset="paper", steps=60, rate=1e-2, base=6)
        assert run.scores is not None and run.scores.accuracy > run.scores.floor + 0.15

    @pytest.mark.slow
    def test_real_sections_beat_the_floor(self, isbi: Path, tmp_path: Path) -> None:
        """Four sections, a network of a few thousand weights: enough to tell membranes from cells."""
        for part in ("images", "labels"):
            (tmp_path / "few" / part).mkdir(parents=True)
            for path in sorted((isbi / part).iterdir())[:4]:
                with Image.open(path) as picture:
                    picture.crop((0, 0, 256, 256)).save(tmp_path / "few" / part / f"{path.stem}.png")
        run = toy_run(tmp_path / "few", tmp_path / "run", steps=60, tile=136, base=8, classes=["membrane", "inside"])
        assert run.scores is not None and run.scores.value > run.scores.floor_value + 0.5

    def test_tensorboard_gets_the_curves(self, data: Path, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        records: list[Record] = []
        toy_run(data, tmp_path / "run", tensorboard=tmp_path / "tb", report=records.append, steps=6)
        found = EventAccumulator(str(tmp_path / "tb")).Reload()
        assert [event.value for event in found.Scalars("loss")] == pytest.approx([record.loss for record in records])
        assert len(found.Scalars("held out/accuracy")) == sum(record.scores is not None for record in records)


@pytest.mark.usefixtures("without_curves")
class TestScale:
    """Training and predicting at a lower resolution."""

    @pytest.mark.slow
    def test_the_model_takes_images_of_full_size(self, data: Path, tmp_path: Path) -> None:
        run = toy_run(data, tmp_path / "run", tile=144, scale=0.5, steps=60, rate=3e-3)
        assert run.scores is not None and run.scores.accuracy > run.scores.floor + 0.15
        model = Model.load(run.model)
        assert (model.header.arguments["reduction"], model.field_of_view.divisor) == (2, 8)
        mask = mask_of(data / "images" / "04.png", tmp_path / "mask.png", run.model)
        assert np.mean(mask == truth_of(data)) == pytest.approx(run.scores.accuracy, abs=0.01)
        assert tilesegment.verify(data / "images" / "04.png", run.model).seamless

    def test_going_on_from_it_keeps_its_scale(self, data: Path, tmp_path: Path) -> None:
        half = {"precision": "fp32", "validation": 0, "steps": 1, "tile": 144}
        first = tilesegment.train(data, tmp_path / "one", base=4, depth=2, scale=0.5, **half)
        with pytest.raises(PlanError, match=r"scale 0.5; .*--scale"):
            tilesegment.train(data, tmp_path / "two", init=first.model, **half)
        again = tilesegment.train(data, tmp_path / "two", init=first.model, scale=0.5, **half)
        assert Model.load(again.model).header.arguments["reduction"] == 2


MODULE: dict[str, Any] = {"tile": 64, "precision": "fp32", "rate": 3e-3}


class Nested(nn.Module):
    """A module that is none of ours, with one output."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Upsample(None, 2))
        self.last = nn.Conv2d(24, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(torch.cat([x, self.inner(x)], 1))


@pytest.mark.usefixtures("without_curves")
class TestAnyModule:
    """A network of the caller's own."""

    @pytest.mark.slow
    def test_it_learns_predicts_and_goes_on(self, data: Path, tmp_path: Path) -> None:
        torch.manual_seed(0)
        module, settings = Nested(), {**MODULE, "steps": 40}
        module.first[0].requires_grad_(False)
        run = tilesegment.train(data, tmp_path / "run", network=module, **settings)
        assert run.scores is not None and run.scores.accuracy > run.scores.floor + 0.2
        model = Model.load(run.model, network=module)
        kept = model.network.state_dict()["module.first.0.weight"]
        torch.testing.assert_close(kept, module.first[0].weight.half().float(), rtol=0, atol=0)
        mask = mask_of(data / "images" / "04.png", tmp_path / "mask.png", model)
        assert np.mean(mask == truth_of(data)) == pytest.approx(run.scores.accuracy, abs=1e-3)
        with pytest.raises(KeyboardInterrupt):
            tilesegment.train(data, tmp_path / "two", network=module, report=stop_after(20), **settings)
        with pytest.raises(PlanError, match="network=module"):
            tilesegment.train(data, tmp_path / "two", resume=True)
        again = tilesegment.train(data, tmp_path / "two", network=module, resume=True)
        assert same(model.network.state_dict(), Model.load(again.model, network=module).network.state_dict())

    @pytest.mark.parametrize(
        ("outputs", "settings", "match"),
        [
            (3, {}, "3 classes.* 2"),
            (2, {"base": 4}, "--base"),
            (2, {"scale": 0.5}, "--scale"),
        ],
    )
    def test_what_does_not_go_with_it(self, outputs: int, settings: dict[str, Any], match: str, data: Path) -> None:
        with pytest.raises(PlanError, match=match):
            Trainer(open_dataset(data), TrainingSettings(steps=1, **MODULE, **settings), Nested(outputs))


class TestLoop:
    """The trainer alone."""

    def test_a_loss_that_is_no_number_ends_it(self, data: Path) -> None:
        settings = TrainingSettings.from_json({**TOY, "steps": 40, "rate": 10, "brightness": 1e38})
        with pytest.raises(DataError, match="--lr"):
            list(Trainer(open_dataset(data), settings).run())

    def test_a_network_that_says_one_class_everywhere_ends_it(self, data: Path) -> None:
        """A rate that does nothing, from a start that says class 1 whatever it sees."""
        trainer = Trainer(open_dataset(data), TrainingSettings(steps=130, rate=1e-9, validation=0.0, **TOY))
        with torch.no_grad():
            trainer.network.head.bias.copy_(torch.tensor([-50.0, 50.0]))
        with pytest.raises(DataError, match=r"one class .* 100 updates"):
            list(trainer.run())

    def test_every_update_keeps_an_average(self, data: Path) -> None:
        """Early on it follows closely, so that a short run is not half its random beginning; with ema 0 at once."""
        for ema in (0.998, 0.0):
            trainer = Trainer(open_dataset(data), TrainingSettings(steps=8, ema=ema, **TOY))
            before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
            assert [record.step for record in trainer.run()] == list(range(1, 9))
            now, mean = trainer.network.state_dict(), trainer.average.module.state_dict()
            for name, value in now.items():
                far, all_of_it = (value - mean[name]).norm(), (value - before[name]).norm()
                assert 0 < far < all_of_it if ema else far == 0 < all_of_it, name

    def test_the_model_is_the_best_of_the_looks(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
                mean = trainer.average.module.state_dict()
                averages[record.step] = {name: value.clone() for name, value in mean.items()}
        assert list(averages) == [2, 4, 6, 8, 10, 12]
        assert trainer.kept_step == trainer.model().header.training["kept_step"] == 6
        assert same(trainer.model().network.state_dict(), averages[6])
        assert not same(averages[6], averages[12])

    def test_epochs(self, data: Path) -> None:
        """Five sections, of which one is held out, two examples per update: two updates per epoch."""
        trainer = Trainer(open_dataset(data), TrainingSettings(epochs=3, batch=2, **TOY))
        assert [record.progress for record in trainer.run()] == [n / 6 for n in range(1, 7)]

    @pytest.mark.parametrize("change", [{"loss": "bce+iou"}, {"loss": "focal"}, {"optimiser": "adamw"}])
    def test_other_losses_and_optimisers_train(self, change: dict[str, str], data: Path) -> None:
        settings = {**TOY, "steps": 5, "border_weight": 5.0, "class_weights": "auto", "validation": 0.0, **change}
        assert all(math.isfinite(one.loss) for one in Trainer(open_dataset(data), TrainingSettings(**settings)).run())


REFUSED: list[tuple[dict[str, Any], type, str]] = [
    ({"tile": 71}, PlanError, "tile 71 .* 68 and 72"),
    ({"budget": 9.0, "steps": 9}, PlanError, "--budget and --steps"),
    ({"steps": 0}, PlanError, "--steps is 0; allowed: 1 or more"),
    ({"steps": None, "budget": float("nan")}, PlanError, "--budget is nan"),
    ({"rate": -1.0}, PlanError, "--rate is -1"),
    ({"validation": 1.0}, PlanError, "--validation is 1.0; allowed: 0 to 0.9"),
    ({"elastic_sigma": -1.0}, PlanError, "--elastic-sigma is -1.0; allowed: 0 to"),
    ({"defects": 2}, PlanError, "--defects is 2"),
    ({"noise": float("nan")}, PlanError, "noise is nan"),
    ({"depth": 9}, ModelError, "depth is 9; allowed: 1 to 7"),
    ({"device": "cuda:7"}, DeviceError, "cuda:7"),
    ({"precision": "fp64"}, PlanError, "--precision is 'fp64'; allowed: auto, fp32"),
    ({"optimiser": "lion"}, PlanError, "--optimiser is 'lion'; allowed: muon, adamw, sgd"),
    ({"goal": "f1"}, PlanError, "--goal is 'f1'; allowed: auto, v_rand, dice, miou"),
    ({"momentum": 3}, PlanError, "'momentum'; there are: augmentation, base, "),
    ({"loss": "mse"}, PlanError, "--loss is 'mse'; allowed: ce, bce, "),
    ({"scale": 0.7}, PlanError, "--scale is 0.7; allowed: 1, 0.5, 0.333"),
    ({"scale": 0.5, "tile": 71}, PlanError, "--tile is 71; at scale 0.5"),
    ({"preset": "unknown"}, PlanError, "--preset is 'unknown'; allowed: paper"),
    ({"preset": "paper", "config": "x"}, PlanError, "--preset and --config"),
    ({"config": "nothing.json"}, DataError, "nothing.json"),
    ({"validation": ("99",)}, DataError, "99"),
    ({"class_weights": "balanced"}, PlanError, "--class-weights is 'balanced'; allowed: auto"),
    ({"class_weights": (1.0, -1.0)}, PlanError, "--class-weights .* 2 positive numbers"),
    ({"init": "nothing.safetensors"}, ModelError, "nothing.safetensors"),
    ({"classes": ["one"]}, DataError, "2 different names"),
    ({"network": "resnet"}, ModelError, "'resnet'; there are: unet, unet-same"),
    ({"options": {"norm": "batch"}}, PlanError, "unet has no option norm; it has: depth, base, dropout"),
    ({"network": "unet-same", "options": {"up": "cubic"}, "dropout": None}, ModelError, "'cubic'; allowed: transposed"),
    ({"network": "u2net-small", **dict.fromkeys(("base", "depth", "dropout"))}, PlanError, "3296 px, .*--halo"),
    ({"halo": 8}, ModelError, "crops 20 px a side itself"),
]


@pytest.mark.parametrize(("settings", "error", "match"), REFUSED)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    settings: dict[str, Any], error: type, match: str, data: Path, tmp_path: Path
) -> None:
    given = {key: value for key, value in {**TOY, "steps": 3, **settings}.items() if value is not None}
    with pytest.raises(error, match=match) as caught:
        tilesegment.train(data, tmp_path / "run", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_written_to(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"run exists .*--resume.*--overwrite"):
        toy_run(data, tmp_path / "run")
    with pytest.raises(PlanError, match="tile 71"):
        toy_run(data, tmp_path / "run", overwrite=True, tile=71)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == b"precious"
    toy_run(data, tmp_path / "run", overwrite=True, steps=1)
    assert Model.load(tmp_path / "run").header.training["steps"] == 1
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(DataError, match=str(out)):
            toy_run(data, out)


IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
# of all pages of four large tensors, one after another, those that the system had to map anew
PROGRAM = """
import resource, torch
from tilesegment.training.updates import kept_memory

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory():
    pages_mapped()  # the memory comes
    print(pages_mapped())
print(pages_mapped())
"""


@pytest.mark.slow
@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc's allocator")
def test_what_an_update_frees_is_there_for_the_next() -> None:
    """In a process of its own: what others did to this one's heap would count."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < outside / 10
