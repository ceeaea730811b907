"""`verify` says seamless where it is, and only there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from image_files import make_pixels, ome_zarr, tiff
from torch import nn

import tilesegment
from tilesegment.errors import PlanError
from tilesegment.geometry import Block, Region
from tilesegment.models.any_module import model_of
from tilesegment.prediction.job import Job
from tilesegment.prediction.seams import Crop, crops_of


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.sampled_from([2, 4, 8, 16]))
def test_crops_straddle_tile_lines_and_borders(height: int, width: int, steps: int, divisor: int) -> None:
    step, whole = steps * divisor, Region(0, 0, height, width)
    crops = crops_of((height, width), step, divisor)
    assert all(crop.area > 0 and whole.contains(crop) for crop in crops)
    assert len(set(crops)) == len(crops)
    corners = {(crop.y0, crop.x0) for crop in crops} | {(crop.y1, crop.x1) for crop in crops}
    assert {(0, 0), (height, width)} <= corners
    if step < height:
        assert any(crop.y0 < step < crop.y1 or crop.y0 < step == crop.y1 == height for crop in crops)
        last = (height - 1) // step * step
        assert any(crop.y0 < last < crop.y1 for crop in crops)


@pytest.mark.parametrize(
    ("shape", "precision"), [((1, 1), "fp64"), ((60, 61), "fp64"), ((7, 200), "fp32"), ((130, 61), "fp32")]
)
def test_real_images_are_seamless_however_small(shape: tuple[int, int], precision: str, toy: Path) -> None:
    image, seen = tiff("yx")(toy.parent, make_pixels(1, *shape)), []
    found = tilesegment.verify(image, toy, tile=88, precision=precision, report=seen.append)
    assert found.seamless
    assert found.pixels == 0
    assert found.difference <= (1e-12 if precision == "fp64" else 1e-4)
    assert tuple(seen) == found.crops
    assert all(isinstance(crop, Crop) for crop in seen)


def test_a_level_of_a_pyramid(toy: Path) -> None:
    image = ome_zarr("0.5", "cyx", 0.5)(toy.parent, make_pixels(1, 200, 260))
    found = tilesegment.verify(image, toy, tile=88, level=1, precision="fp32")
    assert found.seamless
    assert max(crop.region.y1 for crop in found.crops) == 100


def test_a_real_section_is_seamless(vnc: Path, toy: Path) -> None:
    section = sorted((vnc / "images").iterdir())[0]
    assert tilesegment.verify(section, toy, tile=328, precision="fp32").seamless


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tiff("yx")(tmp_path, noise((1, 230, 231)))


def test_context_that_is_cut_off_is_seen(image: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles padded by zeros one by one, as nearly every tool does it."""
    read = Job.read

    def cut(job: Job, z: int, block: Block, needed: Region | None = None) -> np.ndarray:
        pixels, inner = read(job, z, block, needed), block.write.within(block.read)
        kept = np.zeros_like(pixels)
        kept[:, *inner.slices] = pixels[:, *inner.slices]
        return kept

    monkeypatch.setattr(Job, "read", cut)
    found = tilesegment.verify(image, toy, tile=88, precision="fp32")
    assert not found.seamless
    assert found.difference > 0.01
    assert found.pixels > 0


def test_a_margin_that_is_one_pixel_too_small_is_seen(image: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Job.read

    def blind(job: Job, z: int, block: Block, needed: Region | None = None) -> np.ndarray:
        pixels = read(job, z, block, needed).copy()
        pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1] = 0, 0, 0, 0
        return pixels

    monkeypatch.setattr(Job, "read", blind)
    assert not tilesegment.verify(image, toy, tile=88, precision="fp32").seamless


def test_grey_values_scaled_tile_by_tile_are_seen(image: Path) -> None:
    """A module that normalises each tile by itself, taken with a chosen halo."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.InstanceNorm2d(1), nn.Conv2d(1, 2, 3, padding=1))
    model = model_of(module, halo=32)
    assert not tilesegment.verify(image, model, tile=128, precision="fp32", normalise="image").seamless


def test_precisions_with_rounding_of_their_own_are_refused(image: Path, toy: Path) -> None:
    with pytest.raises(PlanError, match="precision 'bf16' rounds too much; allowed for verify: fp64, fp32"):
        tilesegment.verify(image, toy, precision="bf16")
