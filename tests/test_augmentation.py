"""Augmentation: image and label stay together, context is mirrored, nothing is left to chance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilesegment.training.augmentation import Augmentation, draw_example, sampling_grid, vary_grey

NONE = Augmentation(elastic_sigma=0, rotation=False, flip=False, scale=1, contrast=0, brightness=0, gamma=1, noise=0)
# moves pixels, leaves their values
MOVES = Augmentation(contrast=0, brightness=0, gamma=1, noise=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(height: int, width: int) -> Tensor:
    """(1, H, W): slow waves, so that interpolation changes little."""
    y, x = torch.arange(height)[:, None] / 9, torch.arange(width)[None, :] / 11
    return (torch.sin(y) + torch.cos(x))[None]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 30), st.integers(0, 999))
def test_without_augmentation_an_example_is_a_crop_that_lies_inside_where_it_can(
    height: int, width: int, output: int, margin: int, seed: int
) -> None:
    image = torch.rand(2, height, width, generator=seeded(seed))
    label = torch.randint(5, (height, width), generator=seeded(seed))
    tile = output + 2 * margin
    grid = sampling_grid((height, width), tile, output, NONE, seeded(seed))
    first = ((grid[0, 0] + 1) / 2 * torch.tensor([max(width - 1, 1), max(height - 1, 1)])).flip(0)
    spacing = (grid[-1, -1] - grid[0, 0]) / 2 * torch.tensor([max(width - 1, 1), max(height - 1, 1)])
    np.testing.assert_allclose(spacing, tile - 1, atol=1e-3)
    for start, size in zip(first + margin, (height, width), strict=True):
        if output <= size:
            assert -1e-3 <= start <= size - output + 1e-3
    x, t = draw_example(image, label, tile, output, NONE, seeded(seed))
    assert x.shape == (2, tile, tile)
    assert (t.shape, t.dtype) == ((output, output), torch.int64)
    assert set(t.unique().tolist()) <= set(label.unique().tolist())


def test_context_is_mirrored_without_repeating_the_edge() -> None:
    """A tile as large as can be placed in one way only: the section in its middle, mirrored around."""
    image, label = torch.rand(1, 21, 21, generator=seeded(1)), torch.arange(21 * 21).reshape(21, 21) % 7
    x, t = draw_example(image, label, 41, 21, NONE, seeded())
    expected = np.pad(image.numpy(), ((0, 0), (10, 10), (10, 10)), mode="reflect")
    np.testing.assert_allclose(x, expected, atol=1e-5)
    np.testing.assert_array_equal(t, label)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999))
def test_image_and_label_move_together(seed: int) -> None:
    """The label of a thresholded image stays the threshold of the moved image, but for rounding at the edges."""
    image = smooth(120, 130)
    label = (image[0] > 0.3).long()
    x, t = draw_example(image, label, 80, 40, MOVES, seeded(seed))
    inner = x[0, 20:60, 20:60]
    clear = (inner - 0.3).abs() > 0.15
    assert torch.equal((inner > 0.3)[clear].long(), t[clear])
    assert clear.float().mean() > 0.6


def test_every_strength_does_something_and_only_its_own() -> None:
    image, label = smooth(100, 100), torch.zeros(100, 100, dtype=torch.int64)
    plain, _ = draw_example(image, label, 60, 20, NONE, seeded(3))
    moving = [{"elastic_sigma": 5.0}, {"rotation": True}, {"scale": 1.5}]
    grey = [{"contrast": 0.4}, {"brightness": 0.5}, {"gamma": 1.6}, {"noise": 0.3}]
    for change in (*moving, *grey):
        strength = Augmentation(**{**vars(NONE), **change})
        varied, _ = draw_example(image, label, 60, 20, strength, seeded(3))
        assert (varied - plain).abs().max() > 0.01, change
        moved = sampling_grid((100, 100), 60, 20, strength, seeded(3))
        # noise for the elastic grid is drawn first: then the place is another one
        if change in grey:
            assert torch.equal(moved, sampling_grid((100, 100), 60, 20, NONE, seeded(3)))


def test_flip_is_taken_half_of_the_time() -> None:
    flips = [
        bool(grid[0, 0, 0] > grid[0, -1, 0])
        for grid in (
            sampling_grid((50, 50), 20, 10, Augmentation(**{**vars(NONE), "flip": True}), seeded(n)) for n in range(200)
        )
    ]
    assert 70 < sum(flips) < 130


def test_elastic_displacements_have_the_given_spread() -> None:
    strength = Augmentation(**{**vars(NONE), "elastic_sigma": 10.0})
    moves = []
    for seed in range(150):
        grid = sampling_grid((201, 201), 61, 21, strength, seeded(seed)) * 100
        straight = torch.arange(61.0)
        rest = grid[..., 0] - straight
        moves.append(float(rest[0, 0] - rest[0, -1]))
    # the corners are control points, independent of each other: std sqrt(2) x 10
    assert np.std(moves) == pytest.approx(10 * 2**0.5, rel=0.2)


def test_the_same_seed_gives_the_same_example_and_another_another() -> None:
    image, label = torch.rand(1, 70, 70, generator=seeded()), torch.randint(2, (70, 70), generator=seeded())
    one, again, other = (draw_example(image, label, 60, 20, Augmentation(), seeded(n)) for n in (5, 5, 6))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0])


def test_grey_values_are_varied_alike_in_all_channels() -> None:
    strength = Augmentation(**{**vars(Augmentation()), "noise": 0.0})
    image = smooth(40, 40).expand(3, 40, 40)
    varied = vary_grey(image, strength, seeded(2))
    assert torch.equal(varied[0], varied[1])
    assert torch.equal(varied[0], varied[2])
    # order is kept: dark stays darker than light
    assert torch.equal(varied[0].flatten().argsort(stable=True), varied[2].flatten().argsort(stable=True))
    assert np.corrcoef(varied[0].flatten(), image[0].flatten())[0, 1] > 0.97


def test_a_constant_image_stays_finite() -> None:
    assert torch.isfinite(vary_grey(torch.zeros(1, 9, 9), Augmentation(), seeded())).all()
