"""Stains of other laboratories: mixtures are taken apart and put together in optical density."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.training.stains import HAEMATOXYLIN_EOSIN, Stains, draw_stains, stain_vectors, vary_stains

MEAN, STD = torch.tensor([180.0, 140.0, 170.0])[:, None, None], torch.tensor([40.0, 50.0, 30.0])[:, None, None]


def stained(vectors: np.ndarray, seed: int = 0, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """An image (3, H, W) float of two stains, and their amounts (2, H, W)."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.5, 0.35, (2, side, side)) * (rng.random((2, side, side)) < 0.6)
    return 255 * np.exp(-np.einsum("sc,syx->cyx", vectors, amounts)), amounts


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def turned(*by: list[float]) -> np.ndarray:
    return unit(HAEMATOXYLIN_EOSIN + np.array(by))


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.1])
def test_the_stains_of_a_mixture_are_found(turn: float) -> None:
    vectors = turned([turn, 0, -turn], [0, 0, turn])
    image, _ = stained(vectors)
    found = stain_vectors(np.rint(image).clip(0, 255).astype(np.uint8))
    assert (found * vectors).sum(1) == pytest.approx([1, 1], abs=0.02)


def test_without_two_stains_the_usual_ones_are_taken() -> None:
    usual = unit(HAEMATOXYLIN_EOSIN)
    glass = np.full((3, 64, 64), 240, np.uint8)
    np.testing.assert_allclose(stain_vectors(glass), usual)
    grey = np.broadcast_to(np.random.default_rng(0).integers(40, 200, (1, 64, 64), np.uint8), (3, 64, 64))
    np.testing.assert_allclose(stain_vectors(grey.copy()), usual)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_strength_0_changes_nothing(seed: int) -> None:
    vectors = unit(HAEMATOXYLIN_EOSIN)
    image, _ = stained(vectors, seed % 1000, 24)
    x = ((torch.tensor(image) - MEAN) / STD).float()
    stains = Stains(torch.tensor(vectors, dtype=torch.float32), MEAN, STD)
    drawn = draw_stains(0.0, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(vary_stains(x, stains, drawn), x.maximum((1 - MEAN) / STD), atol=2e-3, rtol=0)


def test_amounts_of_stain_are_multiplied_and_added_to() -> None:
    """With other vectors, the image is that of the same tissue, stained so."""
    vectors, others = unit(HAEMATOXYLIN_EOSIN), turned([0.1, 0, 0], [0, 0, 0.2])
    image, amounts = stained(vectors)
    x = ((torch.tensor(image) - MEAN) / STD).float()
    drawn = replace(
        draw_stains(0.0, torch.Generator()),
        turn=torch.tensor(others - vectors, dtype=torch.float32),
        factor=torch.tensor([[0.8], [1.3]]),
        added=torch.tensor([[0.02], [0.05]]),
    )
    varied = vary_stains(x, Stains(torch.tensor(vectors, dtype=torch.float32), MEAN, STD), drawn)
    wanted = np.array([0.8, 1.3])[:, None, None] * amounts + np.array([0.02, 0.05])[:, None, None]
    expected = 255 * np.exp(-np.einsum("sc,syx->cyx", others, wanted))
    bright = image.min(0) > 1.5  # optical density is not resolved below a grey value of 1
    np.testing.assert_allclose((varied * STD + MEAN).numpy()[:, bright], expected[:, bright], atol=0.3)


def test_variations_differ_stay_images_and_grow_with_the_strength() -> None:
    vectors = unit(HAEMATOXYLIN_EOSIN)
    image, _ = stained(vectors, 3)
    x = ((torch.tensor(image) - MEAN) / STD).float()
    stains = Stains(torch.tensor(vectors, dtype=torch.float32), MEAN, STD)
    spread = []
    for strength in (0.3, 1.0):
        grey = [
            vary_stains(x, stains, draw_stains(strength, torch.Generator().manual_seed(n))) * STD + MEAN
            for n in range(40)
        ]
        assert all(one.min() >= 0 and one.max() <= 255.01 for one in grey)
        spread.append(torch.stack([one.mean((1, 2)) for one in grey]).std(0))
    assert (spread[1] > 1.5 * spread[0]).all() and (spread[1] > 5).all()
