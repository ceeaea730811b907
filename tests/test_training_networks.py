"""Every network trains, and comes out as a model that predicts; what a run takes over from the model it starts from."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from command_line import Run
from conftest import toy_model
from data_sets import cells, write_files, write_pairs
from PIL import Image

import tilesegment
from tilesegment import PlanError
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Trainer
from tilesegment.training.network import class_axes, match_classes, take_over
from tilesegment.training.settings import TrainingSettings

pytestmark = pytest.mark.usefixtures("without_curves")

TOYS: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"base": 3, "depth": 2}),
    ("unet-same", {"base": 3, "depth": 2, "up": "nearest"}),
    ("unet-strided", {"base": 2, "depth": 2}),
    ("unetpp", {"base": 2, "level": 3}),
    ("u2net-small", {}),
    ("fcn8", {"base": 2, "hidden": 4}),
]
# the rate is so low that the weights stay what they began as
TRAIN = "train data --out run --init start.safetensors --steps 1 --lr 1e-9 --ema 0 --validation 0 --tile 72"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("networks") / "em_data", 3, side=64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), TOYS, ids=[name for name, _ in TOYS])
def test_it_trains_and_predicts(name: str, options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    halo = 32 if name == "u2net-small" else None
    settings = {"network": name, "options": options, "tile": 60 if name == "unet" else 64, "precision": "fp32"}
    settings |= {} if halo is None else {"halo": halo}
    run = tilesegment.train(data, tmp_path / "run", steps=6, validation=0.34, **settings)
    assert run.scores is not None
    model = Model.load(run.model)
    assert (model.header.network, model.header.halo) == (name, halo)
    assert model.header.arguments == {**model.header.arguments, **options}
    if halo is not None:  # measuring what a chosen halo leaves takes its time for a U^2-Net
        assert model.field_of_view.before == halo
        return
    tilesegment.predict(data / "images" / "02.png", tmp_path / "mask.png", run.model, precision="fp32")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    truth = np.asarray(Image.open(data / "labels" / "02.png")) > 0
    assert np.mean(mask == truth) == pytest.approx(run.scores.accuracy, abs=1e-3)


@pytest.mark.slow
def test_same_padding_learns(data: Path, tmp_path: Path) -> None:
    settings = {"network": "unet-same", "options": {"base": 4, "depth": 2}, "tile": 64, "precision": "fp32"}
    run = tilesegment.train(data, tmp_path / "run", steps=60, rate=3e-3, validation=0.34, **settings)
    assert run.scores is not None and run.scores.accuracy > run.scores.floor + 0.2


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
    assert all((before[key] != after[key]).all() for before, after in pairwise(seen[:3]) for key in means)
    assert all(torch.equal(later[key], value) for later in seen[3:] for key, value in seen[2].items())
    kept = trainer.model().network.state_dict()
    counted = min(trainer.kept_step, 3)  # the best look may have been before
    assert all(int(value) == counted for key, value in kept.items() if key.endswith("tracked"))
    assert all(kept[key].abs().max() > 0 for key in means)


@pytest.mark.parametrize(("name", "options"), [one for one in TOYS if one[0] != "u2net-small"])
def test_only_what_tells_classes_apart_begins_anew_with_other_classes(name: str, options: dict[str, Any]) -> None:
    """A layer does if its output has a channel per class; what sees only those, behind it, may too."""
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


def test_going_on_as_another_network(data: Path, tmp_path: Path) -> None:
    toy_model().save(tmp_path / "start.safetensors")
    for change, match in (({"network": "unetpp"}, "--network"), ({"base": 8}, "base 3"), ({"depth": 3}, "depth 2")):
        settings = TrainingSettings(init=str(tmp_path / "start.safetensors"), steps=1, **change)
        with pytest.raises(PlanError, match=rf"start.safetensors .*{match}.*--init"):
            Trainer(open_dataset(data), settings)


@pytest.mark.parametrize(
    ("new", "old", "matches"),
    [
        (("membrane", "cell"), ("membrane", "cell"), (0, 1)),
        (("Cell", "membrane "), ("membrane", "cell"), (1, 0)),
        (("other", "cell"), ("other", "nucleus", "cell"), (0, 2)),
        (("other", "cell", "spot"), ("other", "nucleus", "cell"), (0, 2, None)),
        (("other", "cell", "spot"), ("other", "cell"), (0, 1, None)),
        (("value 0", "value 255"), ("value 0", "value 1"), (0, 1)),
        (("value 0", "value 255"), ("membrane", "cell"), (0, 1)),
        (("value 0", "value 2"), ("value 0", "value 1", "value 2"), (0, 2)),
        (("value 0", "value 1", "value 2"), ("value 0", "value 255"), (None, None, None)),
        (("Membran", "Zelle"), ("membrane", "cell"), (0, 1)),
        (("a", "b", "c"), ("membrane", "cell"), (None, None, None)),
    ],
)
def test_the_same_classes(new: tuple[str, ...], old: tuple[str, ...], matches: tuple[int | None, ...]) -> None:
    classes = ([LabelClass(name, "#000000") for name in names] for names in (new, old))
    assert match_classes(*classes) == matches


def start(names: Sequence[str], **header: Any) -> Model:
    """Write start.safetensors, a model of these classes."""
    model = toy_model(classes=len(names), seed=1)
    classes = tuple(LabelClass(name, one.colour) for name, one in zip(names, model.header.classes, strict=True))
    return Model(replace(model.header, classes=classes, **header), model.network).save("start.safetensors")


def trained() -> Model:
    return Model.load("run/model.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after", "taken", "words"),
    [
        (("membrane", "cell"), ("membrane", "cell"), (0, 1), ()),
        (("membrane", "cell"), ("cell", "membrane"), (1, 0), ("kept for cell, membrane",)),
        (("other", "nucleus", "cell"), ("other", "cell"), (0, 2), ("other, nucleus, cell",)),
        (("other", "nucleus"), ("other", "cell"), (0, None), ("begun at random: head for cell", "kept for other")),
        (("a", "b", "c"), ("x", "y"), (None, None), ("begun at random: head",)),
    ],
)
def test_the_head_goes_with_the_names_of_the_classes(
    before: tuple[str, ...], after: tuple[str, ...], taken: tuple[int | None, ...], words: tuple[str, ...], here: Path,
    run: Run,
) -> None:  # fmt: skip
    """What it knows of images is kept, what it says of them as far as the classes are the same."""
    model = start(before)
    write_pairs(here / "data", 2)
    found = run(f"{TRAIN} --classes {','.join(after)}")
    assert found.code == 0
    assert ("Note" in found.err) == bool(words) and all(one in found.err for one in words)
    old, new = model.network.state_dict(), trained().network.state_dict()
    assert all(torch.allclose(old[key], new[key], atol=1e-3) for key in new if not key.startswith("head"))
    for n, m in enumerate(taken):
        found_one = [(new["head.weight"][n] - one).abs().max() < 1e-3 for one in old["head.weight"]]
        assert found_one == [m == k for k in range(len(before))]
    record = trained().header.training["init"]
    assert (record["weights_sha256"], record["anew"]) == (model.header.weights_sha256, ["head"] * (None in taken))


def test_images_of_another_dtype_have_their_own_grey_values(here: Path, run: Run) -> None:
    """The network gets values around 0, and the model is one for the images that it was trained on."""
    start(("membrane", "cell"))
    pixels = [cells(80, 80, n) for n in range(2)]
    write_files(here / "data", {f"images/{n}.tif": one.astype(np.uint16) * 200 for n, (one, _) in enumerate(pixels)})
    write_files(here / "data", {f"labels/{n}.tif": inside.astype(np.uint8) for n, (_, inside) in enumerate(pixels)})
    found = run(f"{TRAIN} --classes membrane,cell")
    assert found.code == 0
    note = next(line for line in found.err.splitlines() if "Note: " in line)
    assert "uint8 of mean 128 and spread 70" in note and "uint16" in note
    grey = np.stack([one.astype(np.uint16) * 200 for one, _ in pixels])
    scale = Normalisation((pytest.approx(grey.mean()),), (pytest.approx(grey.std()),), "uint16")
    assert trained().header.normalisation == scale


@pytest.mark.parametrize(("mean", "std", "kept"), [(100, 50, True), (20, 5, False), (120, 2, False)])
def test_images_far_from_what_it_has_learnt(mean: float, std: float, kept: bool, data: Path, here: Path) -> None:
    """Of the same dtype, too: a dim and a bright camera both write uint8."""
    scale = Normalisation((float(mean),), (float(std),), "uint8")
    start(("membrane", "cell"), normalisation=scale)
    settings = TrainingSettings(init="start.safetensors", steps=1, tile=72)
    trainer = Trainer(open_dataset(data, classes=("membrane", "cell")), settings)
    assert (trainer.normalisation == scale) == kept == (not trainer.start.notes)


def test_pixels_of_another_size_are_said(here: Path) -> None:
    start(("value 0", "value 1"), pixel_size=PixelSize(0.5, 0.5))
    image, inside = cells(80, 80, 0)
    for part, pixels in (("images", image), ("labels", inside.astype(np.uint8))):
        (here / "data" / part).mkdir(parents=True)
        how = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}  # 0.25 micrometres
        tifffile.imwrite(here / "data" / part / "a.tif", pixels, **how)
    settings = TrainingSettings(init="start.safetensors", steps=1, tile=72, validation=0.0)
    (note,) = Trainer(open_dataset(here / "data"), settings).start.notes
    assert "0.5 x 0.5 micrometres" in note and "0.25 x 0.25" in note
