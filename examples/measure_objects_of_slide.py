"""How long it takes from a slide to its objects, and how much of that is the network.

    python examples/measure_objects_of_slide.py slide.svs --model nuclei-he --mpp model

The mask is worked out beside the objects and deleted, as by `predict --objects` without `--out`. One JSON object is
printed: pixels of level 0, objects, seconds in all and in the network, its share, and megapixels of level 0 per second.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tilesegment
from tilesegment.prediction.engine import stream
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.queue import ThisProcess
from tilesegment.prediction.settings import Outputs, Settings


class TimedProcess(ThisProcess):
    """This process, which adds up the seconds that the network takes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def stream(self, work, stop):
        """Load, predict and store every block."""
        return stream(
            work,
            lambda item: item.job.load(item.z, item.block),
            self.predict,
            lambda item, pending: item.job.store(item.z, item.block, pending),
            stop,
        )

    def predict(self, item, pixels):
        """Predict a block and wait for it."""
        start = time.perf_counter()
        pending = item.job.predict(item.block, pixels)
        found = None if pending is None else pending()
        self.seconds += time.perf_counter() - start
        return None if found is None else lambda: found


def measure(image: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """What is printed."""
    with tilesegment.open_image(image, **settings.reading) as source:
        pixels = source.shape[0] * source.shape[1]
    start = time.perf_counter()
    with TimedProcess() as workers:
        (result,) = predict_many([(image, Outputs.of(None, {"objects": folder / "objects.csv"}))], settings, workers)
    seconds = time.perf_counter() - start
    if result.errors:
        raise result.errors[0]
    return {
        "pixels": pixels,
        "objects": result.objects.count if result.objects else 0,
        "seconds": seconds,
        "network_seconds": workers.seconds,
        "network_share": workers.seconds / seconds,
        "mpx_per_s": pixels / 1e6 / seconds,
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--model")
    parser.add_argument("--mpp", help="micrometers per pixel, or model")
    parser.add_argument("--diameter", type=float, help="of the objects in the image, pixels")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--folder", help="where the objects are written, and removed again")
    given = parser.parse_args()
    mpp = given.mpp if given.mpp in (None, "model") else float(given.mpp)
    chosen = {"model": given.model, "mpp": mpp, "diameter": given.diameter, "tile": given.tile}
    with TemporaryDirectory(dir=given.folder) as folder:
        print(json.dumps(measure(given.image, Path(folder), Settings(precision=given.precision, **chosen))))


if __name__ == "__main__":
    main()
