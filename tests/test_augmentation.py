"""Augmentation: image and label stay together, context is mirrored, nothing is left to chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import max_pool2d

from tilesegment.training import augmentation
from tilesegment.training.augmentation import Augmentation, Defect, Source, draw, draw_example, number_cells, vary_grey
from tilesegment.training.data import IGNORE

# moves pixels, leaves their values
MOVES = Augmentation(contrast=0, brightness=0, gamma=1, noise=0, blur=0)
NONE = replace(MOVES, elastic_sigma=0, rotation=False, flip=False, zoom=1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampling_grid(shape: tuple[int, int], tile: int, output: int, strength: Augmentation, seed: int) -> Tensor:
    return augmentation.sampling_grid(shape, tile, output, draw(strength, tile, seeded(seed)))


def example(image: Tensor, label: Tensor, tile: int, output: int, strength: Augmentation, seed: int) -> list[Tensor]:
    x, t, w = draw_example(Source(image, label), tile, output, strength, seeded(seed))
    assert w is None
    return [x, t]


def smooth(height: int, width: int) -> Tensor:
    """(1, H, W): slow waves, so that interpolation changes little."""
    y, x = torch.arange(height)[:, None] / 9, torch.arange(width)[None, :] / 11
    return (torch.sin(y) + torch.cos(x))[None]


def test_how_often_examples_are_flipped_blurred_and_bent() -> None:
    drawn = [draw(Augmentation(blur=2.0), 60, seeded(seed)) for seed in range(300)]
    assert 110 < sum(one.mirror < 0 for one in drawn) < 190
    assert 35 < sum(one.blur > 0 for one in drawn) < 90
    assert torch.stack([one.elastic for one in drawn]).std() == pytest.approx(10, rel=0.1)
    assert all(1 / 1.25 <= one.zoom <= 1.25 and 0.75 <= one.contrast <= 1.25 for one in drawn)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 30), st.integers(0, 999))
def test_without_augmentation_an_example_is_a_crop_that_lies_inside_where_it_can(
    height: int, width: int, output: int, margin: int, seed: int
) -> None:
    image = torch.rand(2, height, width, generator=seeded(seed))
    label = torch.randint(5, (height, width), generator=seeded(seed))
    tile = output + 2 * margin
    grid = sampling_grid((height, width), tile, output, NONE, seed)
    first = ((grid[0, 0] + 1) / 2 * torch.tensor([max(width - 1, 1), max(height - 1, 1)])).flip(0)
    spacing = (grid[-1, -1] - grid[0, 0]) / 2 * torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    np.testing.assert_allclose(spacing, tile - 1, atol=1e-3)
    for start, size in zip(first + margin, (height, width), strict=True):
        if output <= size:
            assert -1e-3 <= start <= size - output + 1e-3
    x, t = example(image, label, tile, output, NONE, seed)
    assert x.shape == (2, tile, tile)
    assert (t.shape, t.dtype) == ((output, output), torch.int64)
    assert set(t.unique().tolist()) <= set(label.unique().tolist())


def test_context_is_mirrored_without_repeating_the_edge() -> None:
    """A tile as large as can be placed in one way only: the section in its middle, mirrored around."""
    image, label = torch.rand(1, 21, 21, generator=seeded(1)), torch.arange(21 * 21).reshape(21, 21) % 7
    x, t = example(image, label, 41, 21, NONE, 0)
    expected = np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)), mode="reflect")
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(t, label)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999))
def test_image_and_label_move_together(seed: int) -> None:
    """The label of a thresholded image stays the threshold of the moved image, but for rounding at the edges."""
    image = smooth(120, 130)
    label = (image[0] > 0.3).long()
    x, t = example(image, label, 80, 40, MOVES, seed)
    inner = x[0, 20:60, 20:60]
    clear = (inner - 0.3).abs() > 0.15
    assert torch.equal((inner > 0.3)[clear].long(), t[clear])
    assert clear.float().mean() > 0.6


def test_every_strength_does_something_and_only_its_own() -> None:
    image, label = smooth(100, 100), torch.zeros(100, 100, dtype=torch.int64)
    plain, _ = example(image, label, 60, 20, NONE, 3)
    moving = [{"elastic_sigma": 5.0}, {"rotation": True}, {"zoom": 1.5}, {"elastic_sigma": 3.0, "elastic_grid": 10.0}]
    grey = [{"contrast": 0.4}, {"brightness": 0.5}, {"gamma": 1.6}, {"noise": 0.3}]
    for change in (*moving, *grey):
        strength = replace(NONE, **change)
        varied, _ = example(image, label, 60, 20, strength, 3)
        assert (varied - plain).abs().max() > 0.01, change
        moved = sampling_grid((100, 100), 60, 20, strength, 3)
        assert torch.equal(moved, sampling_grid((100, 100), 60, 20, NONE, 3)) == (change in grey)


def test_the_elastic_grid_is_in_pixels() -> None:
    points = [draw(replace(NONE, elastic_grid=step), 401, seeded()).elastic.shape[1] for step in (200, 100, 50, 9999)]
    assert points == [3, 5, 9, 2]
    assert draw(NONE, 572, seeded()).elastic.shape == (2, 3, 3), "the paper's"


@pytest.mark.parametrize("step", [30, 15, 7, 9999])
def test_elastic_displacements_are_bicubic_between_the_control_points(step: float) -> None:
    strength = replace(NONE, elastic_sigma=10.0, elastic_grid=step)
    straight = sampling_grid((101, 101), 61, 21, replace(strength, elastic_sigma=0), 4)
    moved = (sampling_grid((101, 101), 61, 21, strength, 4) - straight) * 50
    points = draw(strength, 61, seeded(4)).elastic
    field = torch.nn.functional.interpolate(points[None], (61, 61), mode="bicubic", align_corners=True)[0]
    assert torch.allclose(moved.permute(2, 0, 1), field, atol=1e-3)


def test_the_same_seed_gives_the_same_example_and_another_another() -> None:
    image, label = torch.rand(1, 70, 70, generator=seeded()), torch.randint(2, (70, 70), generator=seeded())
    one, again, other = (example(image, label, 60, 20, Augmentation(), n) for n in (5, 5, 6))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_grey_values_are_varied_alike_in_all_channels() -> None:
    image = smooth(40, 40).expand(3, 40, 40)
    varied = vary_grey(image, draw(Augmentation(noise=0, blur=0), 40, seeded(2)))
    assert torch.equal(varied[0], varied[1])
    assert torch.equal(varied[0], varied[2])
    # order is kept: dark stays darker than light
    assert torch.equal(varied[0].flatten().argsort(stable=True), varied[2].flatten().argsort(stable=True))
    assert np.corrcoef(varied[0].flatten(), image[0].flatten())[0, 1] > 0.97


@pytest.mark.parametrize("side", [1, 9])
def test_a_constant_image_stays_finite(side: int) -> None:
    for seed in range(20):
        drawn = draw(Augmentation(blur=3, defects=1), side, seeded(seed))
        assert torch.isfinite(vary_grey(torch.zeros(1, side, side), drawn)).all()


def test_an_example_has_labelled_pixels_where_there_are_some() -> None:
    """One labelled corner of a large section: without looking for it most examples would teach nothing."""
    image, label = smooth(300, 300), torch.full((300, 300), IGNORE, dtype=torch.uint8)
    label[:90, :90] = 1
    found = [bool((example(image, label, 60, 40, NONE, seed)[1] != IGNORE).any()) for seed in range(200)]
    alone = [draw(NONE, 60, seeded(seed)).place.max() < 90 / 260 for seed in range(200)]
    assert sum(found) > 120 > 2 * sum(map(bool, alone))
    nothing = torch.full((300, 300), IGNORE, dtype=torch.uint8)
    assert (example(image, nothing, 60, 40, NONE, 0)[1] == IGNORE).all()


def test_the_border_weights_move_with_the_label() -> None:
    image, border = smooth(90, 90), smooth(90, 90)[0]
    source = Source(image, torch.zeros(90, 90, dtype=torch.uint8), border)
    x, t, w = draw_example(source, 60, 20, MOVES, seeded(4))
    assert w is not None
    assert w.shape == t.shape
    torch.testing.assert_close(w, x[0, 20:40, 20:40])


class TestShades:
    """Of cells: each has its own."""

    LABEL = torch.zeros(90, 90, dtype=torch.uint8)
    LABEL[4:40, 4:86], LABEL[50:86, 4:40], LABEL[50:86, 50:86] = 1, 2, 1
    CELLS = torch.from_numpy(number_cells(LABEL.numpy()))

    def test_cells_are_the_regions_of_any_class_but_the_first(self) -> None:
        label = np.array([[1, 1, 0, 2], [0, IGNORE, 0, 2], [3, 0, 1, 0]], np.uint8)
        assert number_cells(label).tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 4, 0]]
        many = np.zeros((120, 120), np.uint8)
        many[::2, ::2] = 1
        assert np.array_equal(number_cells(many) > 0, many > 0), "however many there are"

    def test_every_cell_changes_by_its_own_and_what_is_between_stays(self) -> None:
        image = smooth(90, 90).repeat(2, 1, 1)
        for seed in range(5):
            drawn = replace(draw(NONE, 90, seeded(seed)), shade=0.5)
            varied = augmentation.shade_cells(image, self.CELLS.long(), drawn)
            assert torch.equal(varied[0], varied[1]), "a cell is no other colour"
            assert torch.equal(varied[:, 43:47], image[:, 43:47])
            lines = []
            for cell in (np.s_[6:38, 6:84], np.s_[52:84, 6:38], np.s_[52:84, 52:84]):
                x, y = image[0][cell].flatten().numpy(), varied[0][cell].flatten().numpy()
                factor, added = np.polyfit(x, y, 1)
                np.testing.assert_allclose(y, factor * x + added, atol=1e-4)
                assert 0.69 < factor < 1.31
                lines.append(added)
            assert len({round(added, 3) for added in lines}) == 3

    def test_they_move_with_the_label(self) -> None:
        """Where the example has no cell, at some distance, it is what it is without shades."""
        found = 0
        for seed in range(6):
            how = (90, 40, replace(MOVES, elastic_sigma=4.0, shades=0.7))
            plain, t, _ = draw_example(Source(smooth(90, 90), self.LABEL), *how, seeded(seed))
            varied, again, _ = draw_example(Source(smooth(90, 90), self.LABEL, None, self.CELLS), *how, seeded(seed))
            assert torch.equal(t, again)
            changed = ((varied - plain)[0, 25:65, 25:65].abs() > 1e-6)[2:-2, 2:-2]
            near = max_pool2d((t > 0).float()[None], 5, stride=1)[0] > 0
            assert not changed[~near].any()
            if changed.any():
                found += 1
                assert changed[t[2:-2, 2:-2] > 0].float().mean() > 0.95
        assert found >= 3

    def test_most_examples_have_them_to_some_degree(self) -> None:
        drawn = [draw(replace(NONE, shades=0.7), 60, seeded(seed)).shade for seed in range(300)]
        assert 180 < sum(shade > 0 for shade in drawn) < 240
        assert 0.6 < max(drawn) <= 0.7
        assert all(draw(NONE, 60, seeded(seed)).shade == 0 for seed in range(20))


class TestDefects:
    """Of electron microscopy sections."""

    def test_their_share_and_their_kinds(self) -> None:
        drawn = [draw(Augmentation(defects=0.4), 100, seeded(seed)).defect for seed in range(300)]
        kinds = [one.kind for one in drawn if one is not None]
        assert 90 < len(kinds) < 150
        assert set(kinds) == set(augmentation.DEFECTS)
        assert all(draw(Augmentation(), 100, seeded(seed)).defect is None for seed in range(50))

    def test_a_fold_hides_a_band_and_darkens_it(self) -> None:
        """Along y = 0, 6 wide: what lies beyond comes from 6 px farther away on either side."""
        fold = Defect("fold", 0.0, (0.0, 0.0), 6.0, -3.0)
        axis = torch.arange(41.0) - 20
        x, y = fold.displace(axis[None, :].expand(41, 41), axis[:, None].expand(41, 41))
        assert torch.equal(x[0], axis)
        assert y[:, 0].tolist() == [v + 6 * np.sign(v) for v in axis.tolist()]
        painted = fold.paint(torch.ones(1, 41, 41))[0]
        assert torch.equal(painted[20], torch.full((41,), -3.0))
        assert torch.equal(painted[:16], torch.ones(16, 41))

    def test_other_kinds_move_nothing_and_change_what_they_should(self) -> None:
        image = smooth(41, 41)
        for kind in ("missing", "contrast", "artefact"):
            defect = Defect(kind, 0.3, (2.0, -3.0), 8.0, 0.5)
            x = torch.rand(2, 2)
            assert defect.displace(x, x) == (x, x)
            assert (defect.paint(image) - image).abs().max() > 0.2
        faint = Defect("contrast", 0, (0, 0), 0, 0.5).paint(image)
        assert faint.std() == pytest.approx(image.std().item() / 2, rel=1e-4)
        assert faint.mean() == pytest.approx(image.mean().item(), abs=1e-5)
