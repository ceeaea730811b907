"""Every network trains, with every loss over all of its outputs, and comes out as a model that predicts."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import write_pairs
from PIL import Image

import tilesegment
from tilesegment import ModelError, PlanError
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Trainer
from tilesegment.training.losses import PIXEL_LOSSES, REGION_LOSSES, Loss
from tilesegment.training.network import class_axes, take_over
from tilesegment.training.settings import TrainingSettings

TOYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("unet", {"base": 3, "depth": 2}, {}),
    ("unet-same", {"base": 3, "depth": 2, "up": "nearest"}, {}),
    ("unet-strided", {"base": 2, "depth": 2}, {}),
    ("unetpp", {"base": 2, "level": 3}, {}),
    ("u2net-small", {}, {"halo": 32}),
    ("fcn8", {"base": 2, "hidden": 4}, {}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("networks") / "em_data", 3, side=64)


@pytest.mark.parametrize(("name", "options", "more"), TOYS, ids=[name for name, _, _ in TOYS])
def test_it_trains_and_predicts(
    name: str, options: dict[str, Any], more: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    tile = 60 if name == "unet" else 64
    settings = {"network": name, "options": options, "tile": tile, "precision": "fp32", **more}
    run = tilesegment.train(data, tmp_path / "run", steps=6, validation=0.34, loss="ce+dice", **settings)
    assert run.scores is not None
    model = Model.load(run.model)
    assert (model.header.network, model.header.halo) == (name, more.get("halo"))
    assert model.header.arguments == {**model.header.arguments, **options}
    if "halo" in more:  # measuring what a chosen halo leaves takes its time for a U^2-Net
        assert model.field_of_view.before == more["halo"]
        return
    tilesegment.predict(data / "images" / "02.png", tmp_path / "mask.png", run.model, precision="fp32")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    truth = np.asarray(Image.open(data / "labels" / "02.png")) > 0
    assert np.mean(mask == truth) == pytest.approx(run.scores.accuracy, abs=1e-3)


def test_same_padding_learns(data: Path, tmp_path: Path) -> None:
    settings = {"network": "unet-same", "options": {"base": 4, "depth": 2}, "tile": 64, "precision": "fp32"}
    run = tilesegment.train(data, tmp_path / "run", steps=60, rate=3e-3, validation=0.34, **settings)
    assert run.scores is not None
    assert run.scores.accuracy > run.scores.floor + 0.2


@pytest.mark.parametrize("name", [*PIXEL_LOSSES, *REGION_LOSSES, "ce+dice"])
def test_a_loss_of_several_outputs_is_the_mean_of_theirs(name: str) -> None:
    outputs = tuple(torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(n)) for n in range(3))
    labels, weights = torch.randint(2, (1, 5, 5)), torch.tensor([2.0, 1.0])
    loss = Loss(name)
    expected = sum(loss(output, labels, weights).item() for output in outputs) / 3
    assert loss(outputs, labels, weights).item() == pytest.approx(expected, rel=1e-6)


def test_running_statistics_are_kept_beside_the_average_and_frozen_in_time(data: Path) -> None:
    """Batch norm: what is saved has seen the data, counts are counts, and most of the run is computed with it."""
    settings = {"network": "unet-same", "options": {"base": 2, "depth": 1}, "tile": 32, "precision": "fp32"}
    trainer = Trainer(open_dataset(data), TrainingSettings(steps=10, **settings))
    seen = []
    for _ in trainer.run():
        state = trainer.network.state_dict()
        seen.append({key: value.clone() for key, value in state.items() if "running" in key or "tracked" in key})
    means = [key for key in seen[0] if key.endswith("running_mean")]
    assert means
    for before, after in pairwise(seen[:3]):
        assert all((before[key] != after[key]).all() for key in means)
    for later in seen[3:]:
        assert all(torch.equal(later[key], value) for key, value in seen[2].items())
    kept = trainer.model().network.state_dict()
    counted = min(trainer.kept_step, 3)  # the best look may have been before
    assert all(int(value) == counted for key, value in kept.items() if key.endswith("tracked"))
    assert all(kept[key].abs().max() > 0 for key in means)


def test_a_pruned_model_is_trained_whole(data: Path, tmp_path: Path) -> None:
    settings = {"network": "unetpp", "options": {"base": 2}, "tile": 64, "precision": "fp32"}
    run = tilesegment.train(data, tmp_path / "run", steps=2, validation=0, **settings)
    halos = [
        tilesegment.predict(
            data / "images" / "00.png", tmp_path / f"{level}.png", run.model, prune=level, precision="fp32"
        ).halo
        for level in (1, 2, 3, 4)
    ]
    assert halos == [8, 24, 48, 96]


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options, _ in TOYS], ids=[n for n, *_ in TOYS])
def test_only_what_tells_classes_apart_begins_anew_with_other_classes(name: str, options: dict[str, Any]) -> None:
    """A layer does if its output has a channel a class; what sees only those, behind it, may too."""
    start, network = (build_network(name, {**options, "in_channels": 1, "classes": n}) for n in (2, 5))
    axes = class_axes(name, {**options, "in_channels": 1, "classes": 5})
    anew = take_over(network, start, axes, (None,) * 5)
    assert anew
    for layer, module in network.named_modules():
        if hasattr(module, "weight"):
            assert (layer in anew) == (5 in module.weight.shape[:2] or 25 in module.weight.shape[:2]), layer
    own = network.state_dict()
    for key, value in start.state_dict().items():
        assert torch.equal(value, own[key]) == (key.rpartition(".")[0] not in anew), key
    same = build_network(name, {**options, "in_channels": 1, "classes": 2})
    assert take_over(same, start, axes, (0, 1)) == ()
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in same.state_dict().items())


class TestRefused:
    """Before anything is written."""

    @pytest.mark.parametrize(
        ("settings", "error", "match"),
        [
            ({"network": "resnet"}, ModelError, "no network is called 'resnet'; there are: unet, unet-same"),
            (
                {"options": {"norm": "batch"}},
                PlanError,
                "unet has no option norm; it has: depth, base, dropout",
            ),
            ({"network": "u2net", "base": 4}, PlanError, "network u2net has no option base; it has: none"),
            ({"network": "unet-same", "options": {"up": "cubic"}}, ModelError, "up is 'cubic'; allowed: transposed"),
            (
                {"network": "u2net-small"},
                PlanError,
                r"a halo of 3296 px, .* choose one with --halo, such as 384",
            ),
            ({"halo": 8}, ModelError, "crops 92 px a side itself"),
            ({"network": "unet-same", "tile": 570}, PlanError, "tile 570 does not fit the network; .* 560 and 576"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], error: type, match: str, data: Path, tmp_path: Path) -> None:
        with pytest.raises(error, match=match) as caught:
            tilesegment.train(data, tmp_path / "run", steps=1, **settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    def test_going_on_as_another_network(self, data: Path, tmp_path: Path) -> None:
        toy = {"options": {"base": 2, "depth": 2}, "tile": 60, "validation": 0, "steps": 1}
        first = tilesegment.train(data, tmp_path / "one", **toy)
        with pytest.raises(PlanError, match="is a unet, not a unetpp; leave out --network, or --init"):
            tilesegment.train(data, tmp_path / "two", network="unetpp", init=first.model, steps=1)
        again = tilesegment.train(data, tmp_path / "two", init=first.model, **{**toy, "options": {}})
        assert Model.load(again.model).header.arguments["base"] == 2
