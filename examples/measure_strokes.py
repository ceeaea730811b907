"""How good a model becomes of a few strokes on a slide, and in how many minutes, from nothing.

    python examples/measure_strokes.py --size 8192 --strokes 50 --budget 300

A slide of two tissues is drawn, in H&E's colours, as a tiled JPEG TIFF: dense nuclei, and fibres with some nuclei
between them. Which of both is where is known of every pixel. Strokes of a few hundred pixels, each within one tissue,
are written as QuPath's GeoJSON; `tileseg train` learns from them alone; the whole slide is predicted and compared with
what is known. One JSON line is printed: `accuracy` is the share of right pixels of the whole slide, `floor` that of
the more frequent tissue, `drawn` the share of the pixels that strokes cover, `train_cpu_s` the seconds of all cores.
"""

import argparse
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

CLASSES = ("stroma", "tumour")
UNIT = 1024  # pixels: side of the square of a tissue that is repeated
NODE = 64  # pixels between the nodes of the field that tells which tissue is where
TILE = 256  # of the file
BLOCK = 2048  # side of the squares in which masks are compared
STEPS = 12  # of a stroke
WIDTH = 12  # of a stroke, pixels


@dataclass(frozen=True)
class Tissues:
    """A slide of `size` x `size` pixels of two tissues, a function of the seed."""

    size: int
    seed: int = 0

    @cached_property
    def _nodes(self) -> np.ndarray:
        """The field that tells where tumour is, on a grid of nodes."""
        rng = np.random.default_rng(self.seed)
        nodes = -(-self.size // NODE) + 2
        field = ndimage.gaussian_filter(rng.normal(size=(nodes, nodes)), min(6.0, nodes / 6), mode="wrap")
        return field - np.median(field)

    def truth(self, y0: int, x0: int, height: int, width: int) -> np.ndarray:
        """Return where tumour is, (height, width) bool."""
        rows, columns = (self._weights(start, count) for start, count in ((y0, height), (x0, width)))
        return rows @ self._nodes @ columns.T > 0

    def _weights(self, start: int, count: int) -> np.ndarray:
        """Weights (count, nodes) of linear interpolation along an axis."""
        at = (start + np.arange(count)) / NODE
        return np.clip(1 - np.abs(at[:, None] - np.arange(len(self._nodes))), 0, None)

    @cached_property
    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """A square of each tissue, (UNIT, UNIT, 3) uint8, whose opposite edges fit together."""
        rng = np.random.default_rng(self.seed + 1)
        pink, purple = np.array([222, 160, 198], np.float32), np.array([110, 72, 146], np.float32)

        def clouds(*sigma: float) -> np.ndarray:
            noise = rng.normal(size=(UNIT, UNIT)).astype(np.float32)
            smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap")
            return (smooth / smooth.std())[..., None]

        def stained(ground: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
            grain = rng.normal(size=(UNIT, UNIT, 3)).astype(np.float32) * 4
            return (ground * (1 - nuclei) + purple * nuclei + grain).clip(0, 255).astype(np.uint8)

        fibres = pink - 16 * clouds(2, 12) * np.array([0.5, 1, 0.6], np.float32)
        stroma = stained(fibres, np.clip(clouds(4, 8) * 2 - 3, 0, 1))
        tumour = stained(pink - 8 * clouds(5, 5), np.clip(clouds(6, 6) * 2 - 1.2, 0, 1))
        return stroma, tumour

    def pixels(self, y0: int, x0: int, side: int) -> np.ndarray:
        """Return a square of the image, (side, side, 3) uint8."""
        rows, columns = (start % UNIT + np.arange(side) for start in (y0, x0))
        stroma, tumour = (unit[np.ix_(rows % UNIT, columns % UNIT)] for unit in self._units)
        return np.where(self.truth(y0, x0, side, side)[..., None], tumour, stroma)

    def write(self, path: Path) -> None:
        """Write the slide as a tiled JPEG TIFF."""
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            writer.write(
                self._tiles(),
                shape=(self.size, self.size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
            )

    def _tiles(self) -> Iterator[bytes]:
        for y in range(0, self.size, TILE):
            for x in range(0, self.size, TILE):
                stream = io.BytesIO()
                Image.fromarray(self.pixels(y, x, TILE)).save(stream, "JPEG", quality=85, subsampling=0)
                yield stream.getvalue()

    def stroke(self, tumour: bool, rng: np.random.Generator) -> list[list[float]]:
        """Draw a line of 100 to 400 pixels within one tissue, [[x, y], ...]."""
        margin = WIDTH
        while True:
            length = min(rng.uniform(100, 400), self.size / 4)
            angles = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.15, STEPS))
            steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / STEPS
            points = rng.uniform(margin, self.size - margin, 2) + np.concatenate([[[0, 0]], np.cumsum(steps, axis=0)])
            if points.min() < margin or points.max() > self.size - margin:
                continue
            around = points[:, None] + np.array([[0, 0], [WIDTH, 0], [-WIDTH, 0], [0, WIDTH], [0, -WIDTH]])
            x, y = around.reshape(-1, 2).T.astype(int).clip(0, self.size - 1)
            if all(self.truth(a, b, 1, 1)[0, 0] == tumour for a, b in zip(y.tolist(), x.tolist(), strict=True)):
                found: list[list[float]] = points.round(1).tolist()
                return found


def strokes(tissues: Tissues, count: int, seed: int = 0) -> dict[str, Any]:
    """Draw `count` strokes, half of them in each tissue: GeoJSON as QuPath's."""
    rng = np.random.default_rng(seed)
    features = []
    for n in range(count):
        line = {"type": "LineString", "coordinates": tissues.stroke(bool(n % 2), rng)}
        of_class = {"objectType": "annotation", "classification": {"name": CLASSES[n % 2]}}
        features.append({"type": "Feature", "geometry": line, "properties": of_class})
    return {"type": "FeatureCollection", "features": features}


def compare(tissues: Tissues, mask: Path) -> dict[str, float]:
    """Compare a mask of the slide with what is known, block by block."""
    from tilesegment.geometry import Region
    from tilesegment.masks import open_mask

    found, counts = open_mask(mask), np.zeros((2, 2), np.int64)
    names = [one.name for one in found.spec.classes]
    is_tumour = np.array([name == CLASSES[1] for name in names])
    for block in Region.of_shape((tissues.size, tissues.size)).squares(BLOCK):
        truth = tissues.truth(block.y0, block.x0, *block.shape)
        predicted = is_tumour[found.read(block, 0, 0)]
        counts += np.bincount(2 * truth.ravel() + predicted.ravel(), minlength=4).reshape(2, 2)
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "floor": float(counts.sum(1).max() / counts.sum()),
        **{f"iou_{name}": float(counts[n, n] / union[n]) for n, name in enumerate(CLASSES)},
    }


def measure(folder: Path, size: int, count: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Draw a slide and strokes in `folder`, train on them, predict the slide and compare it with what is known."""
    import tilesegment

    tissues = Tissues(size, seed)
    slide, labels = folder / "slide.tif", folder / "strokes.geojson"
    tissues.write(slide)
    labels.write_text(json.dumps(strokes(tissues, count, seed)))
    start, worked = time.monotonic(), time.process_time()
    run = tilesegment.train(slide, folder / "run", labels=labels, brush=WIDTH, seed=seed, **settings)
    trained, worked = time.monotonic(), time.process_time() - worked
    tilesegment.predict(slide, folder / "mask.zarr", run.model)
    ended = time.monotonic()
    lengths = [
        float(np.hypot(*np.diff(one["geometry"]["coordinates"], axis=0).T).sum())
        for one in json.loads(labels.read_text())["features"]
    ]
    return {
        "size": size,
        "strokes": count,
        "drawn": sum(lengths) * WIDTH / size**2,
        "train_s": trained - start,
        "train_cpu_s": worked,
        "steps": run.steps,
        "held_out_miou": None if run.scores is None else run.scores.value,
        "predict_s": ended - trained,
        **compare(tissues, folder / "mask.zarr"),
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help=f"side of the slide, pixels; a multiple of {TILE}")
    parser.add_argument("--strokes", type=int, default=50)
    parser.add_argument("--budget", type=float, help="seconds of training  [default: 300]")
    parser.add_argument("--steps", type=int, help="updates, instead of a budget")
    parser.add_argument("--base", type=int, help="channels of the network's first stage")
    parser.add_argument("--depth", type=int, help="how often the network halves the image")
    parser.add_argument("--tile", type=int, help="side of the network's input in training")
    parser.add_argument("--init", help="model to start from, such as nuclei-he")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where slide, model and mask are written, and deleted at the end")
    given = vars(parser.parse_args())
    own = {name: given.pop(name) for name in ("size", "strokes", "seed", "folder")}
    settings = {name: value for name, value in given.items() if value is not None}
    if "steps" not in settings:
        settings.setdefault("budget", 300.0)
    with TemporaryDirectory(dir=own["folder"]) as place:
        found = measure(Path(place), own["size"], own["strokes"], own["seed"], settings)
    print(json.dumps({name: round(one, 5) if isinstance(one, float) else one for name, one in found.items()}))


if __name__ == "__main__":
    main()
