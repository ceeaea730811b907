"""Settings, what is chosen for the machine and the data, and the examples that they lead to."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from data_sets import write_pairs
from toy_training import TOY

from tilesegment import PlanError
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.data import IGNORE, Section, normalisation_of, open_dataset
from tilesegment.training.examples import Examples, batches, reduce_section
from tilesegment.training.loop import Trainer
from tilesegment.training.settings import PRESETS, TrainingSettings
from tilesegment_cli.train import train as command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("settings") / "em_data", 5)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("large") / "em_data", 2, 600)


def test_settings_survive_json() -> None:
    one = TrainingSettings(
        steps=3, class_weights=(5.0, 1.0), validation=("03", "04"), augmentation=Augmentation(zoom=2)
    )
    assert TrainingSettings.from_json(one.to_json()) == TrainingSettings.from_json(one.flat()) == one
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
    # in words, what None stands for
    words = {"budget": "20m", "depth": "4", "base": "32; on a CPU in fp32 16", "tile": "572; on a CPU in fp32 444"}
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
        ({"precision": "fp32", "options": {"base": 8}, "tile": 572}, None, 572),
        ({"precision": "fp32", "network": "fcn8", "options": {"hidden": 4}}, None, 416),
        ({"precision": "fp32", "init": "em-membrane"}, None, 444),
    ],
)
def test_where_updates_are_slow_the_network_is_smaller(
    given: dict[str, Any], base: int | None, tile: int, large: Path
) -> None:
    """And what was chosen for this machine is in the settings, for another."""
    trainer = Trainer(open_dataset(large), TrainingSettings(device="cpu", **given))
    assert (trainer.settings.base, trainer.settings.tile, trainer.settings.batch) == (base, tile, 1)
    assert trainer.examples.tile == tile * trainer.settings.scale
    again = Trainer(open_dataset(large), replace(trainer.settings, precision="bf16"))
    assert (again.start.arguments, again.settings.tile) == (trainer.start.arguments, tile)


def test_the_paper() -> None:
    paper = TrainingSettings.from_json(PRESETS["paper"])
    paper.check()
    assert (paper.base, paper.depth, paper.dropout, paper.optimiser, paper.batch) == (64, 4, 0.5, "sgd", 1)
    assert (paper.border_weight, paper.border_sigma, paper.loss) == (10, 5, "ce")
    assert (paper.augmentation.elastic_sigma, paper.augmentation.elastic_grid, paper.augmentation.shades) == (
        10,
        None,
        0,
    )


@pytest.mark.parametrize(("goal", "given", "shades"), [("v_rand", None, 0.7), ("v_rand", 0.0, 0), ("dice", None, 0)])
def test_cells_have_shades_of_their_own(goal: str, given: float | None, shades: float, data: Path) -> None:
    """Where they fill the image, or it is asked for; and what was chosen is in the settings."""
    asked = TrainingSettings(goal=goal, steps=1, augmentation=Augmentation(shades=given), **TOY)
    trainer = Trainer(open_dataset(data), asked)
    assert trainer.settings.augmentation.shades == shades
    plain = Trainer(open_dataset(data), replace(asked, augmentation=Augmentation(shades=0.0))).examples
    differ = [not torch.equal(trainer.examples[n][0], plain[n][0]) for n in range(8)]
    assert any(differ) == (shades > 0)
    assert all(torch.equal(trainer.examples[n][1], plain[n][1]) for n in range(8))


def test_class_weights_auto_are_the_inverse_shares(data: Path) -> None:
    dataset = open_dataset(data)
    trainer = Trainer(dataset, TrainingSettings(steps=1, class_weights="auto", **TOY))
    assert trainer.weights is not None
    products = trainer.weights * torch.tensor(dataset.shares())
    assert products[0] == pytest.approx(products[1].item(), rel=1e-5)


def test_examples_depend_on_the_number_of_the_update_alone(data: Path) -> None:
    sections = open_dataset(data).sections
    examples = Examples(sections, normalisation_of(sections), 72, 32, 2, Augmentation(), seed=3, border=(10.0, 5.0))
    first = [examples[n] for n in range(5)]
    for workers, start in ((0, 2), (1, 1)):
        for n, batch in zip(range(start, 5), batches(examples, start, workers, pin=False), strict=False):
            assert all(torch.equal(a, b) for a, b in zip(batch, first[n], strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    x, t, w = first[0]
    assert (x.shape, x.dtype, t.shape, t.dtype) == ((2, 1, 72, 72), torch.float32, (2, 32, 32), torch.int64)
    assert w is not None and w.shape == t.shape and w.max() > 0
    assert not any(source.border[source.label == 1].any() for source in examples.sections), "a cell is no border"


def test_a_section_is_reduced_by_means_and_majorities() -> None:
    image = np.arange(5 * 7, dtype=np.uint8).reshape(1, 5, 7)
    label = np.zeros((5, 7), np.uint8)
    label[:2, :2] = [[1, 1], [1, 0]]
    label[2:4, 2:4] = IGNORE
    small = reduce_section(Section("x", image, label), 2)
    assert (small.image.shape, small.image.dtype) == ((1, 2, 3), np.uint8)
    assert small.image[0, 0, 0] == round((0 + 1 + 7 + 8) / 4)
    np.testing.assert_array_equal(small.label, [[1, 0, 0], [0, IGNORE, 0]])


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1), (0.5, 2), (0.333, 3), (1 / 3, 3), (0.0625, 16)])
def test_scales(scale: float, factor: int) -> None:
    assert TrainingSettings(scale=scale).reduction == factor


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0, 0.4, 0.01, math.nan])
def test_scales_that_cannot_be(scale: float) -> None:
    with pytest.raises(PlanError, match="--scale is"):
        TrainingSettings(scale=scale).check()
