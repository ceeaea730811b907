"""Training on labels of single objects: from ids in files to objects counted in an image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import write_files, write_pairs
from labelled_objects import nuclei, write_nuclei
from PIL import Image
from toy_training import same, stop_after, toy_run, weights

import tilesegment
from tilesegment import PlanError
from tilesegment.models.header import read_header
from tilesegment.training.augmentation import Augmentation, Source, compress, draw, draw_example
from tilesegment.training.data import Section, open_dataset
from tilesegment.training.examples import drawing_shares
from tilesegment.training.loop import Trainer
from tilesegment.training.settings import TrainingSettings

FLAT = Augmentation(0.0, None, False, False, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
SMALL: dict[str, Any] = {"base": 4, "depth": 2, "dropout": 0.0, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuclei(tmp_path_factory.mktemp("objects") / "nuclei")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to find something."""
    out = tmp_path_factory.mktemp("runs") / "nuclei"
    run = tilesegment.train(data, out, classes=["background", "nucleus"], steps=150, batch=4, **SMALL)
    assert run.scores is not None and run.scores.goal == "pq"
    assert run.scores.value == run.scores.pq and (run.scores.f1 or 0) > 0.4 and run.scores.aji is not None
    return Path(run.model)


def test_the_model_knows_what_makes_objects(trained: Path) -> None:
    header = read_header(trained)
    assert [(one.name, one.role) for one in header.classes] == [
        ("background", ""),
        ("nucleus", "object"),
        ("rim", "border"),
    ]
    assert header.network == "unet" and header.normalisation.percentiles == (1.0, 99.8)
    assert header.diameter == pytest.approx(14.5, abs=3)
    assert header.ground == "dark"


def test_it_finds_objects_of_any_exposure_without_a_setting(trained: Path, tmp_path: Path) -> None:
    """The same image in other types and exposures has the same objects, and most are found."""
    image, ids = nuclei(150, 77)
    dim = (image // 2).astype(np.uint8)
    deep = image.astype(np.uint16) * 16 + 100
    found = []
    for name, pixels in (("eight", image), ("dim", dim), ("deep", deep), ("float", image / np.float32(7))):
        write_files(tmp_path, {f"{name}.tif": pixels})
        objects = tmp_path / f"{name}.zarr"
        tilesegment.predict(tmp_path / f"{name}.tif", None, trained, objects=objects, precision="fp32", tile=96)
        found.append(tilesegment.find_objects(objects).count)
    true = len(np.unique(ids)) - 1
    assert found[0] == found[2] == found[3] and abs(found[1] - found[0]) <= 2
    assert abs(found[0] - true) <= 0.4 * true


def test_labels_of_instances_are_trained_on_with_what_suits_them(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(open_dataset(data), TrainingSettings(**SMALL))
    chosen, varied = trainer.settings, trainer.settings.augmentation
    assert (trainer.goal, trainer.name, chosen.padded, chosen.normalise) == ("pq", "unet", True, "percentiles")
    assert (varied.zoom, varied.exposure, varied.stains, varied.jpeg) == (1.5, 2.0, 0.0, 0.2)
    assert chosen.tile == 96, "no larger than the images"
    assert chosen.batch == 12, "as many pixels as three tiles of 192 px"
    coloured = Trainer(open_dataset(write_nuclei(tmp_path / "he", 3, colour=True)), TrainingSettings(**SMALL))
    varied = coloured.settings.augmentation
    assert (coloured.settings.normalise, varied.exposure, varied.stains) == ("fixed", 1.0, 1.0)
    assert all(source.stains is not None for source in coloured.examples.sections)


def test_other_labels_are_trained_on_as_before(tmp_path: Path) -> None:
    data = open_dataset(write_pairs(tmp_path / "cells", 2, 460))
    trainer = Trainer(data, TrainingSettings(**SMALL))
    chosen, varied = trainer.settings, trainer.settings.augmentation
    assert (chosen.padded, chosen.normalise, chosen.batch) == (False, "fixed", 1)
    assert (varied.zoom, varied.exposure, varied.stains, varied.jpeg) == (1.25, 1.0, 0.0, 0.0)
    assert trainer.data.classes == data.classes and trainer.examples.shares is None
    with pytest.raises(PlanError, match="single objects"):
        Trainer(data, TrainingSettings(goal="pq", **SMALL))


@pytest.mark.parametrize(("network", "tile", "batch"), [("unet", 152, 13), ("unet-same", 112, 16)])
def test_small_images_are_not_mirrored_to_fill_a_tile(network: str, tile: int, batch: int, tmp_path: Path) -> None:
    """And as many of them make an update as have the pixels of a usual tile."""
    data = open_dataset(write_pairs(tmp_path / "cells", 3, 112))
    trainer = Trainer(data, TrainingSettings(network=network, **SMALL))
    assert (trainer.examples.tile, trainer.examples.output) == (tile, 112)
    assert trainer.examples.batch == batch
    with_tile = Trainer(data, TrainingSettings(network=network, tile=tile, **SMALL))
    assert with_tile.examples.batch == 1, "who chooses a tile chooses the batch"


def test_a_stopped_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = toy_run(data, tmp_path / "whole", steps=4, tile=64)
    with pytest.raises(KeyboardInterrupt):
        toy_run(data, tmp_path / "part", steps=4, tile=64, report=stop_after(2))
    resumed = toy_run(data, tmp_path / "part", resume=True, steps=4, tile=64)
    assert same(weights(whole.model), weights(resumed.model))
    assert whole.scores == resumed.scores


def test_images_count_alike_and_rare_sizes_more_often() -> None:
    def section(name: str, radius: float) -> Section:
        image, ids = nuclei(80, 3, radius, 5)
        return Section(name, image[None], (ids > 0).astype(np.uint8), ids.astype(np.int32))

    one = [section(f"small{n}", 6) for n in range(8)] + [section("large", 24)]
    shares = drawing_shares(one)
    assert shares is not None and shares.sum().item() == pytest.approx(1)
    assert shares[-1] > 2 * shares[0] and torch.equal(shares[:8], shares[:1].expand(8))
    parts = drawing_shares([section("a[0]", 6), section("a[1]", 6), section("b", 6)])
    assert parts is not None and parts.tolist() == pytest.approx([0.25, 0.25, 0.5]), "planes of a file share its turn"
    empty = Section("none", one[0].image, np.zeros((80, 80), np.uint8), np.zeros((80, 80), np.int32))
    assert drawing_shares([empty, *one]) is not None
    assert drawing_shares([replace(one[0], objects=None)]) is None


def test_exposure_scales_what_is_above_the_dark_level() -> None:
    x = torch.rand(1, 60, 60)
    source = Source(x, torch.zeros(60, 60, dtype=torch.uint8), dark=torch.tensor(0.25).view(1, 1, 1))
    factors = []
    for seed in range(30):
        strength = replace(FLAT, exposure=4.0)
        y, _, _ = draw_example(source, 60, 60, strength, torch.Generator().manual_seed(seed))
        above = (y - 0.25) / (x - 0.25)
        factors.append(above.median().item())
        torch.testing.assert_close(y, 0.25 + (x - 0.25) * factors[-1], atol=1e-4, rtol=1e-4)
    assert 0.25 <= min(factors) < 0.5 and 2 < max(factors) <= 4


def test_jpeg_leaves_artefacts_of_any_channels() -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2, 3):
        x = torch.tensor(rng.normal(0, 1, (channels, 48, 40)), dtype=torch.float32)
        coarse, fine = compress(x, 30), compress(x, 90)
        assert coarse.shape == x.shape and torch.isfinite(coarse).all()
        assert 0 < (fine - x).abs().mean() < (coarse - x).abs().mean() < 2
    flat = torch.full((1, 8, 8), 3.0)
    assert torch.equal(compress(flat, 30), flat)


def test_new_variations_leave_the_others_as_they_were() -> None:
    """A run without them draws the same examples as before they existed."""
    plain, more = (
        draw(strength, 64, torch.Generator().manual_seed(5)) for strength in (Augmentation(), Augmentation(jpeg=1.0))
    )
    assert more.quality is not None and 30 <= more.quality <= 90
    for name in ("angle", "zoom", "mirror", "contrast", "brightness", "gamma", "noise", "blur", "shade", "seed"):
        assert getattr(plain, name) == getattr(more, name)


def test_a_network_trained_with_padding_crops_when_it_predicts(data: Path, tmp_path: Path) -> None:
    """Its mask equals that of one pass over the whole image, as of any valid network; and it can be trained on."""
    out = toy_run(data, tmp_path / "one", steps=2, tile=64)
    header = read_header(Path(out.model))
    assert header.network == "unet" and header.training["settings"]["padded"] is True
    again = toy_run(data, tmp_path / "two", steps=1, tile=64, init=out.model)
    assert weights(again.model).keys() == weights(out.model).keys()
    cropped = toy_run(data, tmp_path / "three", steps=2, padded=False)
    assert weights(cropped.model).keys() == weights(out.model).keys()
    with pytest.raises(PlanError, match="--padded"):
        toy_run(data, tmp_path / "four", network="unet-strided", padded=True, dropout=None)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"threshold": 0.4}, "--threshold is for two classes, and there are background, object, rim; leave it out"),
        ({"class_weights": (5.0, 1.0)}, "--class-weights is 5, 1; expected 3 .* class: background, object, rim"),
    ],
)
def test_settings_of_two_classes_are_refused_with_the_three_there_are(
    setting: dict[str, Any], match: str, data: Path
) -> None:
    with pytest.raises(PlanError, match=match):
        Trainer(open_dataset(data), TrainingSettings(steps=1, base=2, depth=1, **setting))


def test_stains_are_for_colour(data: Path) -> None:
    asked = TrainingSettings(augmentation=Augmentation(stains=1.0), **SMALL)
    with pytest.raises(PlanError, match="--stains"):
        Trainer(open_dataset(data), asked)


def test_the_report_and_pictures_show_objects(trained: Path) -> None:
    page = (trained.parent / "report.html").read_text()
    assert "PQ" in page and "F1 at IoU 0.5" in page and "AJI" in page
    with Image.open(trained.parent / "samples.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").quantize(64).convert("RGB").getcolors(1 << 20) or []}
    assert len(colours) > 12, "objects have colours of their own"
