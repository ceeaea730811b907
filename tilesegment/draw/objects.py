"""Objects become colours: each its own, so that neighbours differ."""

from collections.abc import Sequence

import numpy as np

from tilesegment.draw.colours import outline

# Bright on dark and on pink. Any two differ by more than 20 in CIELAB, for colour-blind readers too; see the tests.
_PALETTE = np.array(
    [
        *((34, 170, 255), (238, 153, 17), (51, 153, 68), (221, 0, 17), (221, 255, 0)),
        *((119, 68, 255), (0, 255, 238), (255, 102, 153), (238, 238, 136), (221, 0, 187)),
    ],
    np.uint8,
)
_COUNT = len(_PALETTE)
# (y, x) from a pixel to others whose objects are its neighbours: those of the first two touch it, others are near
_TOUCHING = ((0, 1), (1, 0))
_NEAR = tuple((y * n, x * n) for n in (1, 3, 6, 12, 20) for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)))
_TOUCHES, _IS_NEAR = 2, 1  # bits of the cost of a colour that a neighbour has
_FILL, _OUTLINE = 0.4, 1.0  # opacities
_SMALLEST = 24  # pixels of an object, on average, that leave room for an outline
_SPECK = 0.8  # opacity of objects without outline


def overlay_objects(picture: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Draw objects over a picture: a light fill in a colour of each object's own, and its outermost pixels opaque.

    Where objects are specks, as in a reduced picture, all of their pixels are nearly opaque instead.

    Args:
        picture: (h, w, 3) uint8.
        ids: (h, w) integer ids of the objects; 0 and less stay bare.

    Returns:
        (h, w, 3) uint8.
    """
    inside = ids > 0
    number = np.count_nonzero(inside)
    if not number:
        return picture.copy()
    known, colours = object_colours(ids)
    fill, line = (_FILL, _OUTLINE) if number >= _SMALLEST * known.size else (_SPECK, _SPECK)
    cover = (np.where(outline(ids), np.float32(line), np.float32(fill)) * inside)[..., None]
    own = colours[np.searchsorted(known, ids).clip(max=known.size - 1)]
    return np.rint(picture * (1 - cover) + own * cover).astype(np.uint8)


def object_colours(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose a colour for each object of a picture.

    It depends on the id alone, unless a neighbour that precedes the object has taken that colour. Neighbours are those
    that touch it, or lie as near as objects are wide, up to 20 pixels. Objects that touch get different colours, unless
    more than 10 touch each other; that takes ids of several pieces each.

    Args:
        ids: (h, w) integer ids; 0 and less are none.

    Returns:
        The ids that occur, (N,), ascending, and their colours, (N, 3) uint8.
    """
    known = distinct_ids(ids)
    ranks = np.where(ids > 0, np.searchsorted(known, ids) + 1, 0)
    wide = np.sqrt(np.count_nonzero(ranks) / max(known.size, 1))
    touching = _pairs(ranks, known.size, _TOUCHING)
    near = _pairs(ranks, known.size, [(y, x) for y, x in _NEAR if max(y, abs(x)) <= wide])
    mixed = _mixed(known)
    return known, _PALETTE[_choose((mixed % _COUNT).astype(np.int64), mixed, touching, near)]


def distinct_ids(ids: np.ndarray) -> np.ndarray:
    """Return the ids above 0 that occur in (h, w), ascending."""
    first = ids > 0  # of each run of a row
    first[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    return _distinct(ids[first])


def _mixed(ids: np.ndarray) -> np.ndarray:
    """Numbers (N,) uint64 that look random, by splitmix64."""
    state = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _distinct(values: np.ndarray) -> np.ndarray:
    """The values (N,) that occur, ascending; `np.unique` is many times slower where they are many."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if ordered.size else ordered


def _pairs(ranks: np.ndarray, count: int, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pairs (E, 2) of indices of objects that lie at these offsets from each other; each pair in both directions.

    Args:
        ranks: (h, w) index + 1 of the object, 0 for none.
        count: of objects.
        offsets: (y, x), y not negative.
    """
    found = [np.empty(0, np.int64)]
    height, width = ranks.shape
    for y, x in offsets:
        one = ranks[: max(height - y, 0), max(-x, 0) : width - max(x, 0)]
        other = ranks[y:, max(x, 0) : width + min(x, 0)]
        differ = (one != other) & (one > 0) & (other > 0)
        low, high = np.minimum(one[differ], other[differ]), np.maximum(one[differ], other[differ])
        found.append(_distinct((low - 1) * count + high - 1))
    keys = _distinct(np.concatenate(found))
    low, high = np.divmod(keys, max(count, 1))
    return np.stack([np.concatenate([low, high]), np.concatenate([high, low])], axis=1)


def _choose(wanted: np.ndarray, mixed: np.ndarray, touching: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Choose colours greedily, for all objects at once that no neighbour precedes.

    Args:
        wanted: (N,) the colours that they get if they are free.
        mixed: (N,) numbers that settle which of two neighbours comes first.
        touching, near: (E, 2) pairs of neighbours, in both directions.

    Returns:
        (N,) places in the palette.
    """
    order = np.lexsort((mixed, -_layers(touching, wanted.size)))
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    colours, cost = np.full(wanted.size, -1), np.zeros((wanted.size, _COUNT), np.uint8)
    pairs = np.concatenate([touching, near])
    weights = np.repeat(np.array([_TOUCHES, _IS_NEAR], np.uint8), (len(touching), len(near)))
    waiting = np.arange(wanted.size)
    while waiting.size:
        behind = np.zeros(wanted.size, bool)
        behind[pairs[place[pairs[:, 0]] > place[pairs[:, 1]], 0]] = True
        now, waiting = waiting[~behind[waiting]], waiting[behind[waiting]]
        places = (wanted[now, None] + np.arange(_COUNT)) % _COUNT
        best = np.take_along_axis(cost[now], places, 1).argmin(axis=1)
        colours[now] = np.take_along_axis(places, best[:, None], 1)[:, 0]
        # what their neighbours learn; pairs of which one has a colour are done
        mine, theirs = pairs[:, 0], colours[pairs[:, 1]]
        told, left = (colours[mine] < 0) & (theirs >= 0), (colours[mine] < 0) & (theirs < 0)
        np.bitwise_or.at(cost, (mine[told], theirs[told]), weights[told])
        pairs, weights = pairs[left], weights[left]
    return colours


def _layers(pairs: np.ndarray, count: int) -> np.ndarray:
    """Peel a graph: (N,) the round in which a node has fewer neighbours left than there are colours.

    Nodes that are coloured before those of earlier rounds leave these a colour.
    """
    layers = np.full(count, -1)
    for number in range(count):
        degrees = np.bincount(pairs[:, 0], minlength=count)
        rest = layers < 0
        layers[rest & (degrees <= max(_COUNT - 1, degrees[rest].min()))] = number
        if (layers >= 0).all():
            break
        pairs = pairs[(layers[pairs] < 0).all(axis=1)]
    return layers
