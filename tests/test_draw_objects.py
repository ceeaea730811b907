"""Objects in colours of their own: neighbours differ, an id keeps its colour, and colour-blind readers see it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2lab

from tilesegment.draw import distinct_ids, object_colours, overlay_objects
from tilesegment.draw.objects import _PALETTE

# what red- and green-blind eyes see, for linear red, green and blue (Machado, Oliveira and Fernandes 2009)
SEEN = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def regions(seed: int, shape: tuple[int, int], values: int, size: int) -> np.ndarray:
    """Ids of the connected regions of random classes, about `size` pixels wide: most touch several others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, values, [-(-side // size) for side in shape])
    classes = coarse.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.int64)
    for value in range(1, values):
        parts = ndimage.label(classes == value)[0]
        ids += np.where(parts > 0, parts + ids.max(), 0)
    numbers = rng.choice(2**32 - 2, int(ids.max()) + 1, replace=False) + 1
    return np.where(ids > 0, numbers[ids], 0).astype(np.uint32)


def painted(ids: np.ndarray) -> np.ndarray:
    """The colour of each pixel, (h, w, 3); -1 without one."""
    known, colours = object_colours(ids)
    assert colours.dtype == np.uint8 and len(colours) == len(known)
    picture = np.full((*ids.shape, 3), -1)
    for one, colour in zip(known, colours, strict=True):
        picture[ids == one] = colour
    return picture


def touching_alike(ids: np.ndarray) -> int:
    """How many neighbouring pixels of two objects have one colour."""
    picture, alike = painted(ids), 0
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (ids[one] != ids[other]) & (ids[one] > 0) & (ids[other] > 0)
        alike += np.count_nonzero(differ & (picture[one] == picture[other]).all(-1))
    return alike


@given(st.integers(0, 999), st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(2, 9), st.integers(1, 9))
def test_objects_that_touch_have_different_colours(seed: int, shape: tuple[int, int], values: int, size: int) -> None:
    assert touching_alike(regions(seed, shape, values, size)) == 0


def test_one_object_may_touch_many() -> None:
    ids = np.ones((41, 41), np.uint16)
    # islands in it, and a chain of islands that touch each other, too
    ids[1:40:2, 1:40:2] = 2 + np.arange(400).reshape(20, 20)
    ids[20, 1:40] = 1000 + np.arange(39)
    assert touching_alike(ids) == 0


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_picture_full_of_specks_is_drawn(pieces: int) -> None:
    """A pixel per object, or two anywhere; where hundreds touch each other no palette does, but there is an end."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(1, 3601 // pieces + 1), pieces)[:3600]).reshape(60, 60)
    assert touching_alike(ids) == 0 or pieces == 2
    drawn = overlay_objects(np.zeros((60, 60, 3), np.uint8), ids)
    assert (drawn.max(-1) > 100).all(), "specks are nearly opaque"


@given(st.integers(1, 2**32 - 1), st.sampled_from(["uint8", "uint16", "int32", "uint32", "int64", "uint64"]))
def test_an_object_on_its_own_keeps_its_colour(number: int, dtype: str) -> None:
    number = number % np.iinfo(dtype).max + 1
    ids = np.zeros((90, 120), dtype)
    ids[10:20, 10:20] = number
    alone = painted(ids)[12, 12]
    ids[60:80, 90:110] = number - 1 or number + 1
    np.testing.assert_array_equal(painted(ids)[12, 12], alone)
    np.testing.assert_array_equal(painted(ids[5:40, 8:40])[6, 6], alone)


def test_objects_that_are_near_differ() -> None:
    ids = np.zeros((40, 60), np.int32)
    ids[10:30, 5:25] = 1
    alike = 0
    for number in range(2, 100):
        ids[10:30, 31:51] = number  # six pixels of background between them
        picture = painted(ids)
        alike += np.array_equal(picture[20, 10], picture[20, 40])
    assert alike == 0


def test_every_colour_is_used_about_as_often() -> None:
    ids = np.kron(np.arange(1, 1601, dtype=np.uint32).reshape(40, 40), np.pad(np.ones((1, 1), np.uint32), 1))
    _, counts = np.unique(object_colours(ids)[1], axis=0, return_counts=True)
    assert len(counts) == len(_PALETTE) and counts.min() > 0.7 * 160


@pytest.mark.parametrize("sight", SEEN)
def test_colours_are_told_apart_by_colour_blind_readers(sight: str) -> None:
    unit = _PALETTE / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SEEN[sight]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.diag(np.full(len(lab), np.inf))
    assert distance.min() > 20


def test_an_object_is_a_light_fill_with_an_opaque_outline() -> None:
    picture = np.full((12, 14, 3), (200, 100, 50), np.uint8)
    ids = np.zeros((12, 14), np.int16)
    ids[2:9, 3:11], ids[5, 6] = 7, -1  # what is negative is no object
    drawn = overlay_objects(picture, ids)
    colour = object_colours(ids)[1][0].astype(int)
    np.testing.assert_array_equal(drawn[ids != 7], picture[ids != 7])
    line = np.zeros(ids.shape, bool)
    line[[2, 8], 3:11] = line[2:9, [3, 10]] = True
    line[[4, 6, 5, 5], [6, 6, 5, 7]] = True
    assert (drawn[line] == colour).all()
    inner = (ids == 7) & ~line
    np.testing.assert_allclose(
        drawn[inner], np.broadcast_to(picture[0, 0] * 0.6 + colour * 0.4, (inner.sum(), 3)), atol=1
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 4)])
def test_nothing_to_draw_changes_nothing(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 9, np.uint8)
    np.testing.assert_array_equal(overlay_objects(picture, np.zeros(shape, np.uint32)), picture)
    assert overlay_objects(picture, np.ones(shape, np.uint32)).shape == picture.shape


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_the_ids_that_occur(seed: int, height: int, width: int) -> None:
    ids = np.random.default_rng(seed).integers(-3, 9, (height, width))
    assert distinct_ids(ids).tolist() == sorted({one for one in ids.ravel().tolist() if one > 0})
