"""Does it pay to correct a model where `tileseg suggest` says? Against places at random, with equal work and training.

    python examples/measure_loop.py --size 2048 --side 192 --depth 2 --scale 0.5 --tile 216 --batch 4

A slide of two tissues is drawn (see measure_strokes.py), each of which looks different in some rare patches. For each
seed a first model learns from strokes at random places, and predicts the slide with its probabilities. Then it is
corrected twice, each time in as many places of one size: once in those that `suggest` names, once in random ones that
do not overlap. In each place the same number of strokes is drawn, by the same rule: where they cover most of what the
model has wrong. Both corrected models start from the first one and train for as many updates on all strokes so far.
On a machine that others use, OMP_NUM_THREADS=1 keeps threads from waiting for each other.

One JSON line is printed: of each seed the accuracy of the first model and of both corrected ones, on the whole slide
and `elsewhere`, outside the places of either; and the means over the seeds.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measure_strokes import CLASSES, UNIT, WIDTH, Tissues, strokes
from scipy import ndimage

import tilesegment
from tilesegment.geometry import Region
from tilesegment.masks import open_mask
from tilesegment.prediction.suggesting import suggest

ARMS = ("suggested", "random")
RARE = 0.06  # of the slide looks different
SETTINGS = ("base", "depth", "tile", "batch", "scale")  # of the trainings
TRIED = 400  # lines of which the best becomes a stroke
SHORTEST, LONGEST = 40, 160  # of a stroke in a place, pixels


@dataclass(frozen=True)
class Varied(Tissues):
    """A slide on which stroma is inflamed, and tumour pale, in patches that are rare."""

    @cached_property
    def _rare(self) -> np.ndarray:
        """The field that tells where tissue looks different, on the grid of nodes, in units of its quantiles."""
        rng = np.random.default_rng(self.seed + 2)
        nodes = len(self._nodes)
        field = ndimage.gaussian_filter(rng.normal(size=(nodes, nodes)), min(2.5, nodes / 8), mode="wrap")
        return field - np.quantile(field, 1 - RARE)

    @cached_property
    def _others(self) -> tuple[np.ndarray, np.ndarray]:
        """A square of each tissue as it looks in the rare patches, (UNIT, UNIT, 3) uint8."""
        rng = np.random.default_rng(self.seed + 3)
        pale, blue = np.array([226, 196, 216], np.float32), np.array([92, 84, 150], np.float32)

        def clouds(sigma: float) -> np.ndarray:
            smooth = ndimage.gaussian_filter(rng.normal(size=(UNIT, UNIT)).astype(np.float32), sigma, mode="wrap")
            return (smooth / smooth.std())[..., None]

        def stained(ground: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
            grain = rng.normal(size=(UNIT, UNIT, 3)).astype(np.float32) * 4
            return (ground * (1 - nuclei) + blue * nuclei + grain).clip(0, 255).astype(np.uint8)

        inflamed = stained(pale - 12 * clouds(4), np.clip(clouds(3) * 2 - 1.6, 0, 1))
        mucin = stained(pale + 8 * clouds(12), np.clip(clouds(5) * 2 - 4.2, 0, 1))
        return inflamed, mucin

    def is_rare(self, y0: int, x0: int, height: int, width: int) -> np.ndarray:
        """Return where tissue looks different, (height, width) bool."""
        rows, columns = (self._weights(start, count) for start, count in ((y0, height), (x0, width)))
        found: np.ndarray = rows @ self._rare @ columns.T > 0
        return found

    def pixels(self, y0: int, x0: int, side: int) -> np.ndarray:
        """Return a square of the image, (side, side, 3) uint8."""
        rows, columns = ((start + np.arange(side)) % UNIT for start in (y0, x0))
        truth = self.truth(y0, x0, side, side)[..., None]
        stroma, tumour = (unit[np.ix_(rows, columns)] for unit in self._others)
        rare = self.is_rare(y0, x0, side, side)[..., None]
        return np.where(rare, np.where(truth, tumour, stroma), super().pixels(y0, x0, side))


@dataclass(frozen=True)
class Work:
    """How much is done: places, their size and distance, strokes in each, updates, and settings of the trainings."""

    places: int
    side: int
    strokes: int
    corrections: int
    first_steps: int
    steps: int
    distance: float | None
    settings: dict[str, Any]


def corrected(tissues: Tissues, ids: np.ndarray, place: Region, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw strokes in a place, each within one tissue, where they cover most of what is wrong, as features.

    Args:
        tissues: the slide.
        ids: predicted there, 1 is tumour, (h, w).
        place: in the slide.
        count: of strokes.
        seed: of the lines that are tried.
    """
    truth = tissues.truth(place.y0, place.x0, *place.shape)
    wrong = truth != (ids == 1)
    inside = [ndimage.binary_erosion(truth == bool(n), iterations=WIDTH // 2, border_value=0) for n in (0, 1)]
    lines = [one for n in (0, 1) for one in _lines(inside[n], wrong, n, seed)]
    chosen: list[_Line] = []
    covered = np.zeros_like(wrong)
    for _ in range(count):
        # what an earlier stroke says already counts no more; of equal lines the longer one
        rest = wrong & ~covered
        best = max(lines, key=lambda one: (rest[_pixels(one.ends)].sum(), one.length), default=None)
        if best is None:
            break
        lines.remove(best)
        chosen.append(best)
        stroke = np.zeros_like(wrong)
        stroke[_pixels(best.ends)] = True
        covered |= ndimage.binary_dilation(stroke, iterations=2 * WIDTH)
    return [_feature(one.number, one.ends + np.array([place.y0, place.x0])) for one in chosen]


@dataclass(frozen=True, eq=False)
class _Line:
    """A line in a place: its class, and both ends (2, 2) of (y, x)."""

    number: int
    ends: np.ndarray

    @property
    def length(self) -> float:
        return float(np.hypot(*(self.ends[1] - self.ends[0])))


def _lines(inside: np.ndarray, wrong: np.ndarray, number: int, seed: int) -> list[_Line]:
    """Return straight lines that lie in a tissue, half of them through what is wrong there."""
    rng = np.random.default_rng([seed, number])
    found = []
    for where in (inside & wrong, inside):
        starts = np.argwhere(where)
        for start in starts[rng.integers(0, len(starts), TRIED // 2)] if len(starts) else ():
            length, angle = rng.uniform(SHORTEST, LONGEST), rng.uniform(0, 2 * np.pi)
            way = np.array([np.sin(angle), np.cos(angle)]) * length / 2
            ends = np.stack([start - way, start + way])
            if ends.min() < 0 or (ends >= inside.shape).any() or not inside[_pixels(ends)].all():
                continue
            found.append(_Line(number, ends))
    return found


def _pixels(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels along a line."""
    steps = int(np.abs(np.diff(ends, axis=0)).max()) + 2
    y, x = np.linspace(ends[0], ends[1], steps).astype(int).T
    return y, x


def _feature(number: int, ends: np.ndarray) -> dict[str, Any]:
    line = {"type": "LineString", "coordinates": ends[:, ::-1].round(1).tolist()}
    properties = {"objectType": "annotation", "classification": {"name": CLASSES[number]}}
    return {"type": "Feature", "geometry": line, "properties": properties}


def random_places(size: int, count: int, side: int, seed: int) -> list[Region]:
    """Return squares at random, none of which overlaps another."""
    rng, found = np.random.default_rng([seed, 7]), list[Region]()
    while len(found) < count:
        y, x = rng.integers(0, size - side + 1, 2).tolist()
        place = Region(y, x, y + side, x + side)
        if not any(place.intersect(other).area for other in found):
            found.append(place)
    return found


def right(tissues: Tissues, mask: Path, left_out: list[Region]) -> tuple[float, float]:
    """Return the share of right pixels of a slide, and the same without some places."""
    found, counts = open_mask(mask), np.zeros((2, 2), np.int64)
    tumour = [one.name for one in found.spec.classes].index(CLASSES[1])
    for block in Region.of_shape((tissues.size, tissues.size)).squares(2048):
        is_right = tissues.truth(block.y0, block.x0, *block.shape) == (found.read(block) == tumour)
        counts[0] += is_right.sum(), is_right.size
        kept = np.ones(block.shape, bool)
        for one in left_out:
            kept[one.intersect(block).within(block).slices] = False
        counts[1] += (is_right & kept).sum(), kept.sum()
    return float(counts[0, 0] / counts[0, 1]), float(counts[1, 0] / counts[1, 1])


def run_seed(folder: Path, size: int, work: Work, seed: int) -> dict[str, Any]:
    """Draw a slide, train a first model, correct it in both ways, and compare all with what is known."""
    tissues, slide = Varied(size, seed), folder / "slide.tif"
    tissues.write(slide)
    drawn = strokes(tissues, work.strokes, seed)["features"]
    seconds = {"first": time.monotonic()}
    first = train(folder, slide, drawn, "first", work, seed)
    seconds["first"] = time.monotonic() - seconds["first"]
    tilesegment.predict(slide, folder / "first.zarr", first, probabilities=folder / "p.zarr")
    asked = {"count": work.places, "size": work.side, "distance": work.distance}
    named = suggest(folder / "first.zarr", probabilities=folder / "p.zarr", **asked).places
    places = dict(
        zip(ARMS, ([one.region for one in named], random_places(size, len(named), work.side, seed)), strict=True)
    )
    every = [one for arm in ARMS for one in places[arm]]
    ids = open_mask(folder / "first.zarr")
    tumour = [one.name for one in ids.spec.classes].index(CLASSES[1])
    before = right(tissues, folder / "first.zarr", every)
    found: dict[str, Any] = {"seed": seed, "places": len(named), "first": before[0], "first_elsewhere": before[1]}
    for arm in ARMS:
        more, wrong = [], 0
        for n, place in enumerate(places[arm]):
            predicted = (ids.read(place) == tumour).astype(np.uint8)
            wrong += int((predicted != tissues.truth(place.y0, place.x0, *place.shape)).sum())
            more += corrected(tissues, predicted, place, work.corrections, seed * 1000 + n)
        seconds[arm] = time.monotonic()
        model = train(folder, slide, [*drawn, *more], arm, work, seed, init=first)
        seconds[arm] = time.monotonic() - seconds[arm]
        tilesegment.predict(slide, folder / f"{arm}.zarr", model)
        after = right(tissues, folder / f"{arm}.zarr", every)
        found |= {arm: after[0], f"{arm}_elsewhere": after[1], f"{arm}_strokes": len(more)}
        found[f"{arm}_wrong_in_places"] = wrong / sum(one.area for one in places[arm])
    return found | {f"{name}_train_s": one for name, one in seconds.items()}


def train(
    folder: Path,
    slide: Path,
    features: list[dict[str, Any]],
    name: str,
    work: Work,
    seed: int,
    init: Path | None = None,
) -> Path:
    """Train on strokes; return the model's file."""
    labels = folder / f"{name}.geojson"
    labels.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    steps = work.first_steps if init is None else work.steps
    settings = {"steps": steps, "seed": seed, "brush": WIDTH, **work.settings}
    if init is not None:
        settings = {key: value for key, value in settings.items() if key not in ("base", "depth")} | {"init": str(init)}
    return Path(tilesegment.train(slide, folder / name, labels=labels, **settings).model)


def summed(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds, and how far suggested places are ahead of random ones."""
    means = {name: fmean(one[name] for one in seeds) for name in seeds[0] if name != "seed"}
    ahead = [one[ARMS[0]] - one[ARMS[1]] for one in seeds]
    spread = {"ahead_std": stdev(ahead)} if len(ahead) > 1 else {}
    return means | {"ahead": fmean(ahead), **spread, "seeds_ahead": sum(one > 0 for one in ahead)}


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3072, help="side of the slide, pixels; a multiple of 256")
    parser.add_argument("--seeds", type=int, default=5, help="how many slides")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strokes", type=int, default=50, help="before the first training")
    parser.add_argument("--places", type=int, default=20, help="that are corrected")
    parser.add_argument("--side", type=int, default=256, help="of a place, pixels")
    parser.add_argument("--distance", type=float, help="between suggested places, pixels  [default: as suggest's]")
    parser.add_argument("--corrections", type=int, default=2, help="strokes in a place")
    parser.add_argument("--first-steps", type=int, default=200, help="updates of the first training")
    parser.add_argument("--steps", type=int, default=100, help="updates of a training after corrections")
    parser.add_argument("--base", type=int, default=8, help="channels of the network's first stage")
    parser.add_argument("--depth", type=int, default=4, help="how often the network halves the image")
    parser.add_argument("--tile", type=int, help="side of the network's input in training")
    parser.add_argument("--scale", type=float, help="reduce images to this, such as 0.5")
    parser.add_argument("--batch", type=int, help="examples per update")
    parser.add_argument("--folder", type=Path, help="where all is written, and deleted at the end")
    given = parser.parse_args()
    settings = {name: value for name in SETTINGS if (value := getattr(given, name)) is not None}
    work = Work(
        given.places,
        given.side,
        given.strokes,
        given.corrections,
        given.first_steps,
        given.steps,
        given.distance,
        settings,
    )
    seeds = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        with TemporaryDirectory(dir=given.folder) as folder:
            seeds.append(run_seed(Path(folder), given.size, work, seed))
        print(json.dumps(rounded(seeds[-1])), file=sys.stderr, flush=True)
    print(
        json.dumps(
            rounded(
                {
                    "size": given.size,
                    "first_steps": given.first_steps,
                    "steps": given.steps,
                    **summed(seeds),
                    "of_seeds": seeds,
                }
            )
        )
    )


def rounded(value: Any) -> Any:
    """Return it with numbers of five decimals."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
