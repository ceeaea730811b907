"""Settings and the examples that they lead to: presets, lengths, scale, workers, what is held out."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from data_sets import write_pairs
from PIL import Image

import tilesegment
from tilesegment import DataError, PlanError
from tilesegment.models.model import Model
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.data import IGNORE, Section, normalisation_of, open_dataset
from tilesegment.training.examples import Examples, batches, reduce_section
from tilesegment.training.loop import Record, Trainer
from tilesegment.training.settings import PRESETS, TrainingSettings
from tilesegment_cli.train import train as command

TOY: dict[str, Any] = {"base": 4, "depth": 2, "tile": 72, "dropout": 0.0, "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("settings") / "em_data", 5)


def test_settings_survive_json() -> None:
    one = TrainingSettings(
        steps=3, class_weights=(5.0, 1.0), validation=("03", "04"), augmentation=Augmentation(zoom=2)
    )
    assert TrainingSettings.from_json(one.to_json()) == one
    flat = TrainingSettings.from_json({"steps": 3, "elastic_sigma": 4.0, "class_weights": [5, 1]})
    assert (flat.augmentation.elastic_sigma, flat.class_weights) == (4.0, (5, 1))


def test_the_command_names_the_defaults_of_the_library() -> None:
    """A default lives once; where the help names it, it is that one."""
    known = {one.name: one.default for kind in (TrainingSettings, Augmentation) for one in fields(kind)}
    named = {
        one.name: one.help.rsplit("[default: ", 1)[1].rstrip("]")
        for one in command.params
        if isinstance(one, click.Option) and one.help and "[default: " in one.help and one.name in known
    }
    # those that say in words what None stands for
    words = {"budget": "20m", "depth": "4"}
    words |= {"base": "32; on a CPU in fp32 16", "tile": "572; on a CPU in fp32 444"}
    for name, text in named.items():
        if name in words:
            assert (text, known[name]) == (words[name], None)
        elif known[name] not in (None, ""):
            assert text == str(known[name]), name
    assert {"rate", "loss", "validation", "elastic_sigma", "ema", "scale", "goal", "seed"} <= set(named)


@pytest.mark.parametrize(
    ("given", "base", "tile"),
    [
        ({"precision": "fp32"}, 16, 444),
        ({"precision": "bf16"}, 32, 572),
        ({"precision": "fp32", "scale": 0.5}, 16, 888),
        ({"precision": "fp32", "network": "unet-same"}, 16, 432),
        ({"precision": "fp32", "base": 8}, 8, 444),
        ({"precision": "fp32", "options": {"base": 8}, "tile": 572}, None, 572),
        ({"precision": "fp32", "network": "fcn8", "options": {"hidden": 4}}, None, 416),
        ({"precision": "fp32", "init": "em-membrane"}, None, 444),
    ],
)
def test_where_updates_are_slow_the_network_is_smaller(
    given: dict[str, Any], base: int | None, tile: int, data: Path
) -> None:
    """And what was chosen for this machine is in the settings, for another."""
    trainer = Trainer(open_dataset(data), TrainingSettings(device="cpu", **given))
    assert (trainer.settings.base, trainer.settings.tile) == (base, tile)
    assert trainer.examples.tile == tile * trainer.settings.scale
    again = Trainer(open_dataset(data), replace(trainer.settings, precision="bf16"))
    assert (again.arguments, again.settings.tile) == (trainer.arguments, tile)


def test_the_paper() -> None:
    paper = TrainingSettings.from_json(PRESETS["paper"])
    paper.check()
    assert (paper.base, paper.depth, paper.dropout, paper.optimiser, paper.batch) == (64, 4, 0.5, "sgd", 1)
    assert (paper.border_weight, paper.border_sigma, paper.loss) == (10, 5, "ce")
    augmentation = paper.augmentation
    assert (augmentation.elastic_sigma, augmentation.elastic_grid, augmentation.shades) == (10, None, 0)


@pytest.mark.parametrize(
    ("goal", "given", "shades"), [("v_rand", None, 0.7), ("v_rand", 0.0, 0), ("dice", None, 0), ("dice", 0.2, 0.2)]
)
def test_cells_have_shades_of_their_own(goal: str, given: float | None, shades: float, data: Path) -> None:
    """Where they fill the image, or it is asked for; and what was chosen is in the settings."""
    asked = TrainingSettings(goal=goal, steps=1, augmentation=Augmentation(shades=given), **TOY)
    trainer = Trainer(open_dataset(data), asked)
    assert trainer.settings.augmentation.shades == shades
    examples = trainer.examples
    plain = Trainer(open_dataset(data), replace(asked, augmentation=Augmentation(shades=0.0))).examples
    differ = [not torch.equal(examples[n][0], plain[n][0]) for n in range(8)]
    assert any(differ) == (shades > 0)
    assert all(torch.equal(examples[n][1], plain[n][1]) for n in range(8))


def test_the_papers_recipe_learns(data: Path, tmp_path: Path) -> None:
    run = tilesegment.train(data, tmp_path / "run", preset="paper", steps=60, rate=1e-2, **{**TOY, "base": 6})
    assert run.scores is not None
    assert run.scores.accuracy > run.scores.floor + 0.15


def test_epochs(data: Path) -> None:
    """Five sections, of which one is held out, two examples an update: two updates an epoch."""
    trainer = Trainer(open_dataset(data), TrainingSettings(epochs=3, batch=2, **TOY))
    records = list(trainer.run())
    assert [record.progress for record in records] == [n / 6 for n in range(1, 7)]


def test_what_is_held_out_by_name(data: Path, tmp_path: Path) -> None:
    run = tilesegment.train(data, tmp_path / "run", steps=2, validation=("01", "03"), **TOY)
    record = Model.load(run.model).header.training
    assert (record["sections"], record["held_out"]) == (["00", "02", "04"], ["01", "03"])
    with pytest.raises(DataError, match="nothing"):
        tilesegment.train(data, tmp_path / "other", steps=2, validation=("nothing",), **TOY)


class TestExamples:
    """What the network is shown."""

    @pytest.fixture
    def examples(self, data: Path) -> Examples:
        sections = open_dataset(data).sections
        return Examples(sections, normalisation_of(sections), 72, 32, 2, Augmentation(), seed=3, border=(10.0, 5.0))

    def test_they_depend_on_the_number_alone(self, examples: Examples) -> None:
        first = [examples[n] for n in range(6)]
        for workers, start in ((0, 2), (2, 1)):
            for n, batch in zip(range(start, 6), batches(examples, start, workers, pin=False), strict=False):
                assert all(torch.equal(a, b) for a, b in zip(batch, first[n], strict=True))
        assert not torch.equal(first[0][0], first[1][0])

    def test_shapes_and_dtypes(self, examples: Examples) -> None:
        x, t, w = examples[0]
        assert (x.shape, x.dtype) == ((2, 1, 72, 72), torch.float32)
        assert (t.shape, t.dtype) == ((2, 32, 32), torch.int64)
        assert w is not None
        assert w.shape == t.shape
        assert w.max() > 0

    def test_nothing_of_a_cell_is_weighed_as_border(self, examples: Examples) -> None:
        for _, label, border, _ in examples.sections:
            assert border is not None
            assert not border[label == 1].any()


class TestScale:
    """Training and predicting at a lower resolution."""

    def test_a_section_is_reduced_by_means_and_majorities(self) -> None:
        image = np.arange(5 * 7, dtype=np.uint8).reshape(1, 5, 7)
        label = np.zeros((5, 7), np.uint8)
        label[:2, :2] = [[1, 1], [1, 0]]
        label[2:4, 2:4] = IGNORE
        small = reduce_section(Section("x", image, label), 2)
        assert small.image.shape == (1, 2, 3)
        assert small.image[0, 0, 0] == round((0 + 1 + 7 + 8) / 4)
        assert small.image.dtype == np.uint8
        np.testing.assert_array_equal(small.label, [[1, 0, 0], [0, IGNORE, 0]])

    def test_the_model_takes_images_of_full_size(self, data: Path, tmp_path: Path) -> None:
        settings = {**TOY, "tile": 144, "scale": 0.5, "steps": 60, "rate": 3e-3}
        run = tilesegment.train(data, tmp_path / "run", **settings)
        assert run.scores is not None
        assert run.scores.accuracy > run.scores.floor + 0.15
        model = Model.load(run.model)
        assert model.header.arguments["reduction"] == 2
        assert model.field_of_view.divisor == 8
        out = tmp_path / "mask.png"
        tilesegment.predict(data / "images" / "04.png", out, run.model, precision="fp32")
        truth = np.asarray(Image.open(data / "labels" / "04.png")) > 0
        mask = np.asarray(Image.open(out)).astype(bool)
        assert mask.shape == truth.shape
        assert np.mean(mask == truth) == pytest.approx(run.scores.accuracy, abs=0.01)
        assert tilesegment.verify(data / "images" / "04.png", run.model).seamless

    def test_going_on_from_it_keeps_its_scale(self, data: Path, tmp_path: Path) -> None:
        first = tilesegment.train(data, tmp_path / "one", **{**TOY, "tile": 144, "scale": 0.5, "steps": 2})
        shape = {**TOY, "base": None, "depth": None, "tile": None, "steps": 2, "init": first.model}
        with pytest.raises(PlanError, match=r"works at scale 0.5; give that --scale"):
            tilesegment.train(data, tmp_path / "two", **shape)
        again = tilesegment.train(data, tmp_path / "two", **shape, scale=0.5)
        assert Model.load(again.model).header.arguments["reduction"] == 2

    @pytest.mark.parametrize(("scale", "factor"), [(1.0, 1), (0.5, 2), (0.333, 3), (1 / 3, 3), (0.25, 4), (0.0625, 16)])
    def test_scales(self, scale: float, factor: int) -> None:
        assert TrainingSettings(scale=scale).reduction == factor

    @pytest.mark.parametrize("scale", [0.0, -1.0, 2.0, 0.4, 0.01, math.nan])
    def test_scales_that_cannot_be(self, scale: float) -> None:
        with pytest.raises(PlanError, match="scale is"):
            TrainingSettings(scale=scale).check()


def test_class_weights_auto_are_the_inverse_shares(data: Path) -> None:
    dataset = open_dataset(data)
    trainer = Trainer(dataset, TrainingSettings(steps=1, class_weights="auto", **TOY))
    assert trainer.weights is not None
    products = trainer.weights * torch.tensor(dataset.shares())
    assert products[0] == pytest.approx(products[1].item(), rel=1e-5)


def test_without_an_average_the_weights_themselves_are_kept(data: Path) -> None:
    trainer = Trainer(open_dataset(data), TrainingSettings(steps=3, ema=0.0, **TOY))
    assert len(list(trainer.run())) == 3
    now, kept = trainer.network.state_dict(), trainer.model().network.state_dict()
    assert all(torch.equal(now[name], kept[name]) for name in now)


def test_every_loss_and_optimiser_trains(data: Path) -> None:
    for change in (
        {"loss": "bce+dice"},
        {"loss": "focal"},
        {"loss": "iou"},
        {"optimiser": "sgd"},
        {"optimiser": "adamw"},
    ):
        settings = replace(TrainingSettings(steps=8, border_weight=5.0, **TOY), **change)
        records = list(Trainer(open_dataset(data), settings).run())
        assert all(math.isfinite(record.loss) for record in records)


def test_tensorboard_gets_the_curves(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records: list[Record] = []
    tilesegment.train(data, tmp_path / "run", tensorboard=tmp_path / "tb", report=records.append, steps=6, **TOY)
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [event.value for event in found.Scalars("loss")] == pytest.approx([record.loss for record in records])
    assert len(found.Scalars("held out/accuracy")) == sum(record.scores is not None for record in records)
