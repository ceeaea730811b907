"""Smaller levels grow while blocks are written; the end builds what is missing, and no more."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import tiff
from mask_files import contents, mask_of, saved
from test_masks import fill, ids_of, spec_of
from test_masks_formats import make_image

import tilesegment
from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import MaskWriter, create_mask, create_probabilities, open_mask
from tilesegment.masks import writer as module
from tilesegment.masks.blocks import BlockArray
from tilesegment.masks.pyramid import build_missing, halve


def write_and_grow(writer: MaskWriter, ids: np.ndarray, seed: int = 0) -> None:
    """All blocks in a random order."""
    blocks = list(writer.base.blocks())
    random.Random(seed).shuffle(blocks)
    for region, z in blocks:
        writer.write(region, ids[z][region.slices], z)
        writer.grow(region, z)


def smaller(writer: MaskWriter) -> dict[Path, bytes]:
    """All stored objects of the smaller levels."""
    files = {path: data for level in writer.levels[1:] for path, data in contents(level.path).items()}
    return {path: data for path, data in files.items() if path.suffix != ".json" and path.name[0] != "."}


def check_levels(path: Path, ids: np.ndarray, halvings: Sequence[int]) -> None:
    """The finished mask's levels are those of `ids` (D, H, W)."""
    mask = open_mask(path)
    for z, plane in enumerate(ids):
        expected, times = plane, 0
        for level, wanted in enumerate(halvings):
            for _ in range(wanted - times):
                expected = halve(expected)
            times = wanted
            np.testing.assert_array_equal(mask.read(Region.of_shape(expected.shape), level, z), expected)


@settings(deadline=None, max_examples=12)
@given(
    shape=st.sampled_from([(1100, 1501), (513, 1), (1, 1027), (640, 640)]),
    cut=st.sampled_from([(512, 64), (135, 45), (256, 256)]),
    depth=st.sampled_from([None, 2]),
    ngff=st.sampled_from(["0.4", "0.5"]),
    seed=st.integers(0, 99),
)
def test_all_levels_are_there_when_the_last_block_is(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    cut: tuple[int, int],
    depth: int | None,
    ngff: str,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.zarr"
    spec = spec_of(shape, *cut, depth=depth)
    ids = ids_of(spec, seed)
    writer = create_mask(path, spec, ngff=ngff)
    write_and_grow(writer, ids, seed)
    assert len(writer.levels) > 1
    assert all(level.survey().done.all() for level in writer.levels)
    writer.finish()
    check_levels(path, ids, writer.target.halvings)


def test_levels_that_leave_some_out_grow_too(tmp_path: Path) -> None:
    """As those of an image to which the mask is added."""
    make_image(tmp_path / "image.zarr", "0.5", (1, 2, 8))
    spec = spec_of((64, 96), 8, 8)
    writer = create_mask(tmp_path / "image.zarr/labels/cells", spec)
    write_and_grow(writer, ids_of(spec))
    assert writer.target.halvings == (0, 1, 3)
    assert all(level.survey().done.all() for level in writer.levels)
    writer.finish()
    check_levels(tmp_path / "image.zarr/labels/cells", ids_of(spec), (0, 1, 3))


class TestTheEnd:
    """`finish` builds what did not grow, and nothing else."""

    spec = spec_of((1100, 900), 128, 64)
    ids = ids_of(spec)

    @pytest.fixture
    def writer(self, tmp_path: Path) -> MaskWriter:
        return create_mask(tmp_path / "mask.zarr", self.spec)

    def test_builds_nothing_of_what_grew(self, writer: MaskWriter, monkeypatch: pytest.MonkeyPatch) -> None:
        write_and_grow(writer, self.ids)
        grown = smaller(writer)
        monkeypatch.setattr(BlockArray, "write", None)
        writer.finish()
        inside = {path.relative_to(writer.target.partial): data for path, data in grown.items()}
        assert {path: (writer.path / path).read_bytes() for path in inside} == inside
        assert len(inside) == 5 * 4 + 3 * 2

    def test_builds_what_is_missing_or_damaged(self, writer: MaskWriter) -> None:
        write_and_grow(writer, self.ids)
        grown = smaller(writer)
        missing, damaged, *_ = sorted(grown)
        missing.unlink()
        damaged.write_bytes(grown[damaged][:-3])
        build_missing(writer.levels, writer.target.halvings)
        assert smaller(writer) == grown

    def test_builds_all_of_a_mask_that_did_not_grow(self, writer: MaskWriter, tmp_path: Path) -> None:
        fill(writer, self.ids)
        assert not smaller(writer)
        writer.finish()
        check_levels(tmp_path / "mask.zarr", self.ids, writer.target.halvings)

    def test_says_what_kept_it_from_growing(self, writer: MaskWriter, tmp_path: Path) -> None:
        """A block that is written is stored, whatever is with its neighbours."""
        first, second, *_ = (region for region, _ in writer.base.blocks())
        fill(writer, self.ids)
        (stored,) = writer.base.objects(first, 0)
        whole = stored.read_bytes()
        stored.write_bytes(bytes(100) + whole[100:])  # as long as it was
        writer.grow(second)
        assert not smaller(writer)
        with pytest.raises(MaskError, match=f"cannot read .*{stored.relative_to(writer.base.path)}"):
            writer.finish()
        stored.write_bytes(whole)
        writer.finish()
        check_levels(tmp_path / "mask.zarr", self.ids, writer.target.halvings)

    def test_a_block_that_is_written_again_changes_what_is_above_it(self, writer: MaskWriter, tmp_path: Path) -> None:
        write_and_grow(writer, self.ids)
        ids = self.ids.copy()
        region = Region(128, 640, 256, 768)
        ids[0][region.slices] = 3
        writer.write(region, ids[0][region.slices])
        writer.grow(region)
        writer.finish()
        check_levels(tmp_path / "mask.zarr", ids, writer.target.halvings)


def test_probabilities_have_nothing_to_grow(tmp_path: Path) -> None:
    writer = create_probabilities(tmp_path / "p.zarr", spec_of((600, 600), 512, 64))
    region = Region(0, 0, 512, 512)
    writer.write(region, np.zeros((4, 512, 512), np.float32))
    writer.grow(region)
    assert len(writer.levels) == 1


def test_while_predicting_all_levels_grow(small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run finds nothing to build."""
    found = []

    def spy(levels: Sequence[BlockArray], halvings: Sequence[int]) -> None:
        found.extend(bool(level.survey().done.all()) for level in levels)
        build_missing(levels, halvings)

    monkeypatch.setattr(module, "build_missing", spy)
    image, model = tiff("yx")(tmp_path, noise((1, 600, 700))), saved(toy_model(), tmp_path)
    done = tilesegment.predict(image, tmp_path / "mask.zarr", model, tile=88)
    assert done.blocks > 4 and found == [True, True]
    np.testing.assert_array_equal(mask_of(tmp_path / "mask.zarr", 1), halve(mask_of(tmp_path / "mask.zarr")))
