"""What a GPU makes of it: the bare network, the predictor, whole images from Zarr, exactness, and others beside it.

    python examples/measure_gpu.py --json gpu.json                 # under 8 minutes
    python examples/measure_gpu.py --toy --device cpu              # seconds: whether it runs

It needs this repository and its dependencies; MONAI and torch-em are measured where they can be imported. Every part
runs until its share of `--seconds` is used up, in an order in which the most telling come first, and `left_out` names
what there was no time or memory for. Mpx/s are millions of pixels of the mask per second, seconds are medians.

`products`    TFLOP/s of a product of large square matrices in each precision.
`bare`        the network alone on tiles that lie on the device, per base, precision, tile and batch, with its share of
              that product, the peak memory, and once more as a recorded CUDA graph.
`end_to_end`  `tilesegment.predict` from Zarr to the finished mask with its pyramid, on the disk and in memory, beside
              the predictor alone; without CUDA graphs; and without overlap: block after block, one thing at a time.
`peers`       sliding windows of MONAI, blocks of torch-em, of an image in memory, in fp32, beside ours.
`exact`       the classes and probabilities of a crop by each precision against fp64, and tiles against one pass.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tilesegment import LabelClass, Model, TilesegmentError, open_image, verify
from tilesegment.geometry import Region
from tilesegment.images.drawing import draw_zarr
from tilesegment.masks import create_mask
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.networks import build_network
from tilesegment.networks.counting import floating_point_operations
from tilesegment.prediction.benchmark import seconds_per_tile
from tilesegment.prediction.devices import PRECISIONS, choose_device
from tilesegment.prediction.job import Job
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.prediction.settings import Outputs, Settings

MEAN, STD = 128.0, 40.0  # of the drawn image


@dataclass
class Bench:
    """What is measured, and how long it may take.

    Attributes:
        device: where.
        folder: gets images and masks on a disk.
        memory: the same in memory, or None if there is no such folder.
        toy: sizes at which the program only shows that it runs.
        until: of `time.monotonic()`, the end of the part under way.
        left_out: what there was no time or memory for.
    """

    device: torch.device
    folder: Path
    memory: Path | None
    toy: bool
    until: float = math.inf
    left_out: list[str] = field(default_factory=list)

    @property
    def is_cuda(self) -> bool:
        """Whether there are streams, graphs and a memory of its own."""
        return self.device.type == "cuda"

    @property
    def precisions(self) -> list[str]:
        """Those of the network alone, fastest last."""
        return ["fp32", "tf32", "bf16", "fp16"] if self.is_cuda else ["fp32", "bf16"]

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], least: float = 0.3) -> float:
        """Median of repeated calls, for at least so long; the first, which chooses kernels, is not counted."""
        times: list[float] = []
        work()
        self.synchronise()
        while len(times) < 3 or (sum(times) < least and not self.toy):
            start = time.perf_counter()
            work()
            self.synchronise()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak(self, work: Callable[[], object]) -> int | None:
        """Peak memory of the device in bytes while it works; None on a CPU."""
        if not self.is_cuda:
            work()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.synchronise()
        return torch.cuda.max_memory_allocated(self.device)

    @contextmanager
    def attempt(self, what: str) -> Iterator[bool]:
        """Whether there is time for it; lack of memory, or what an other program does not manage, is left out."""
        if time.monotonic() > self.until:
            self.left_out.append(f"{what}: no time")
            yield False
            return
        try:
            yield True
        except (RuntimeError, TilesegmentError, ImportError, TypeError) as error:
            self.left_out.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
            if self.is_cuda:
                torch.cuda.empty_cache()


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Multiply float32 as float32, or, for tf32, with mantissas of 10 bits."""
    kinds: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    for kind in kinds:
        kind.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value


def dtype_of(precision: str) -> torch.dtype:
    """The type of weights and values."""
    return PRECISIONS["fp32" if precision == "tf32" else precision]


def random_model(base: int) -> Model:
    """The U-Net of the paper with random weights, for the drawn image, both classes about as frequent."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"in_channels": 1, "classes": 2, "depth": 4, "base": base}
    network = build_network("unet", arguments).requires_grad_(False).eval()
    classes = (LabelClass("outside", "#000000", 0), LabelClass("inside", "#e69f00", 1))
    header = ModelHeader("unet", arguments, classes, Normalisation((MEAN,), (STD,), "uint8"), name=f"random {base}")
    with torch.inference_mode():
        logits = network(torch.randn(1, 1, 252, 252))[0]
    heads: Any = network.heads
    heads[0].bias[1] -= (logits[1] - logits[0]).median()
    return Model(header, network)


def products(bench: Bench) -> dict[str, float]:
    """TFLOP/s of a product of square matrices in each precision."""
    side, found = (256 if bench.toy else 8192 if bench.is_cuda else 2048), {}
    for precision in bench.precisions:
        with bench.attempt(f"product in {precision}") as may:
            if may:
                a, b = (torch.rand(side, side, device=bench.device).to(dtype_of(precision)) for _ in range(2))
                with multiplying(precision), torch.inference_mode():
                    found[precision] = 2 * side**3 / bench.seconds(lambda a=a, b=b: a @ b) / 1e12  # type: ignore[misc]
    return found


def bare(bench: Bench, product: dict[str, float]) -> list[dict[str, Any]]:
    """The network alone, for each base, precision, tile and batch."""
    bases = (4, 8) if bench.toy else (64, 32, 16)
    tiles = (204, 220) if bench.toy else (572, 1212, 2044)
    batches = (1, 2) if bench.toy else (1, 4, 16)
    found = []
    for base in bases:
        model = random_model(base)
        operations = {tile: floating_point_operations(model.network, 1, tile) or 0 for tile in tiles}
        for precision in reversed(bench.precisions):
            network = model.network.to(bench.device, dtype_of(precision)).to(memory_format=torch.channels_last)
            for tile in tiles:
                for batch in batches:
                    what = {"base": base, "precision": precision, "tile": tile, "batch": batch}
                    with bench.attempt(f"bare {what}") as may, multiplying(precision), torch.inference_mode():
                        if may:
                            x = torch.randn(batch, 1, tile, tile, device=bench.device).to(dtype_of(precision))
                            x = x.contiguous(memory_format=torch.channels_last)
                            pixels = batch * model.field_of_view.step_of(tile) ** 2
                            found.append(what | _network_alone(bench, network, x, pixels, batch * operations[tile]))
                            if precision in product:
                                found[-1]["share_of_product"] = found[-1]["tflops"] / product[precision]
            network.to("cpu", torch.float32)
    return found


def _network_alone(bench: Bench, network: nn.Module, x: Tensor, pixels: int, operations: int) -> dict[str, Any]:
    peak = bench.peak(lambda: network(x))
    seconds = bench.seconds(lambda: network(x))
    found: dict[str, Any] = {"seconds": seconds, "peak_bytes": peak}
    if bench.is_cuda:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(bench.device)
        with torch.cuda.graph(graph, stream=stream):
            network(x)
        found["seconds_as_graph"] = bench.seconds(graph.replay)
        seconds = min(seconds, found["seconds_as_graph"])
    return found | {"mpx_per_s": pixels / 1e6 / seconds, "tflops": operations / seconds / 1e12}


def end_to_end(bench: Bench, side: int) -> list[dict[str, Any]]:
    """From Zarr to the finished mask, on the disk and in memory, beside the predictor alone."""
    found = []
    places = {"disk": bench.folder} | ({"memory": bench.memory} if bench.memory is not None else {})
    images = {
        name: draw_zarr(folder / "image.zarr", (side, side), [MEAN], [STD], "uint8") for name, folder in places.items()
    }
    for base in (4,) if bench.toy else (32, 64, 16):
        model = random_model(base)
        for precision in ("fp32",) if not bench.is_cuda else ("bf16", "fp16", "fp32"):
            settings = Settings(model=model, device=str(bench.device), precision=precision, runtime="pytorch")
            for where, image in images.items():
                what = {"base": base, "precision": precision, "image": where, "side": side}
                with bench.attempt(f"end to end {what}") as may:
                    if may:
                        found.append(what | _whole_image(bench, image, places[where], settings))
    return found


def _whole_image(bench: Bench, image: str, folder: Path, settings: Settings) -> dict[str, Any]:
    with Job.prepare(image, settings) as job:
        plan = job.plan
        mpx = plan.pixels / 1e6
        seconds_per_tile(job)  # chooses kernels, records the graph
        alone = plan.step**2 / 1e6 / seconds_per_tile(job)
        found: dict[str, Any] = {"tile": plan.tile, "batch": plan.batch, "block": plan.block}
        found |= {"predictor_mpx_per_s": alone}
        with TemporaryDirectory(dir=folder) as place:
            found["without_overlap_mpx_per_s"] = mpx / _one_thing_at_a_time(job, Path(place) / "mask.zarr")
        if bench.is_cuda:
            assert isinstance(job.predictor, TorchPredictor)
            job.predictor._records, job.predictor._recording = False, None
            seconds_per_tile(job)
            found["predictor_without_graphs_mpx_per_s"] = plan.step**2 / 1e6 / seconds_per_tile(job)

    def whole() -> None:
        with TemporaryDirectory(dir=folder) as place:
            (result,) = predict_many([(image, Outputs(Path(place) / "mask.zarr"))], settings)
            if result.errors:
                raise result.errors[0]

    found["peak_bytes"] = bench.peak(whole)
    start = time.perf_counter()
    whole()
    found["mpx_per_s"] = mpx / (time.perf_counter() - start)
    return found | {"share_of_predictor": found["mpx_per_s"] / alone}


def _one_thing_at_a_time(job: Job, mask: Path) -> float:
    """Seconds to read, predict and store block after block, and finish the mask."""
    plan, start = job.plan, time.perf_counter()
    writer = create_mask(mask, job.spec())
    with writer.claimed():
        for z, block in plan.work():
            ids = job.predictor.predict(job.read(z, block), block)
            writer.write(block.write.within(plan.region), ids, z - plan.planes.start)
        writer.finish()
    return time.perf_counter() - start


def peers(bench: Bench, side: int) -> dict[str, dict[str, Any]]:
    """Others on an image in memory, in fp32, the same weights in the padded network that they need."""
    tile, base = (204, 4) if bench.toy else (572, 32)
    arguments = {**random_model(base).header.arguments, "norm": "none"}
    network = build_network("unet-same", arguments).requires_grad_(False).eval().to(bench.device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = tile // 16 * 16
    with open_image(bench.folder / "image.zarr") as source:
        pixels = (source.read(Region(0, 0, side, side))[0].astype(np.float32) - MEAN) / STD

    def monai() -> None:
        from monai.inferers import sliding_window_inference

        image = torch.from_numpy(pixels)[None, None].to(bench.device)
        with torch.inference_mode():
            logits = sliding_window_inference(image, (step, step), 4, network)
            logits.argmax(1).to(torch.uint8).cpu()

    def torch_em() -> None:
        from torch_em.util.prediction import predict_with_halo

        name = "cpu" if bench.device.type == "cpu" else bench.device.index or 0
        predict_with_halo(pixels, network, [name], (step - 64, step - 64), (32, 32), disable_tqdm=True)

    found = {}
    for name, package, work in (("monai", "monai", monai), ("torch-em", "torch_em", torch_em)):
        if find_spec(package) is None:
            bench.left_out.append(f"{name}: not installed")
            continue
        with bench.attempt(name) as may, multiplying("fp32"):
            if may:
                peak, start = bench.peak(work), time.perf_counter()
                work()
                bench.synchronise()
                seconds = time.perf_counter() - start
                found[name] = {"seconds": seconds, "mpx_per_s": side**2 / 1e6 / seconds, "peak_bytes": peak}
    return found


def exact(bench: Bench) -> dict[str, Any]:
    """A crop in each precision against fp64, and tiles against one pass in fp64 and fp32."""
    model = random_model(4) if bench.toy else Model.load("em-membrane")
    tile, found = (204 if bench.toy else 572), {}
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, tile, tile)))

    def probabilities(precision: str) -> Tensor:
        network = model.network.to(bench.device, dtype_of(precision))
        with multiplying(precision), torch.inference_mode():
            p = torch.softmax(network(x.to(bench.device, dtype_of(precision))).double(), 1).cpu()
        network.to("cpu", torch.float32)
        return p

    wanted = probabilities("fp64")
    for precision in bench.precisions:
        with bench.attempt(f"exactness of {precision}") as may:
            if may:
                p = probabilities(precision)
                differ = (p.argmax(1) != wanted.argmax(1)).double().mean()
                found[precision] = {"largest_difference": float((p - wanted).abs().max()), "other_class": float(differ)}
    for precision in ("fp64", "fp32"):
        with bench.attempt(f"seams in {precision}") as may:
            if may:
                image = bench.folder / "image.zarr"
                seams = verify(image, model, device=str(bench.device), precision=precision, tile=tile)
                found[f"seams_{precision}"] = {"largest_difference": seams.difference, "pixels": seams.pixels}
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
    found |= {"torch": torch.__version__, "tilesegment": version("tilesegment"), "cpus": os.cpu_count()}
    found |= {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "name": platform.processor() or platform.machine(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        found |= {"capability": f"{properties.major}.{properties.minor}", "cudnn": torch.backends.cudnn.version()}
    return found


def measure(bench: Bench, seconds: float, side: int) -> dict[str, Any]:
    """Everything, each part in its share of the time."""
    start = time.monotonic()
    found: dict[str, Any] = {"machine": machine(bench.device)}
    parts: tuple[tuple[str, float, Callable[[], Any]], ...] = (
        ("products", 0.05, lambda: products(bench)),
        ("end_to_end", 0.5, lambda: end_to_end(bench, side)),
        ("exact", 0.6, lambda: exact(bench)),
        ("peers", 0.7, lambda: peers(bench, side)),
        ("bare", 0.97, lambda: bare(bench, found["products"])),
    )
    for name, share, work in parts:
        bench.until = start + share * seconds
        begun = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = work()
        print(f"{name}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    return found | {"left_out": bench.left_out, "seconds": time.monotonic() - start}


def main() -> None:
    """Measure, and print or store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=440.0, help="about how long it may take")
    parser.add_argument("--side", type=int, help="of the image, pixels; 16384 on a GPU, 2048 elsewhere")
    parser.add_argument("--folder", help="on the disk that is measured; what is written is removed again")
    parser.add_argument("--memory-folder", default="/dev/shm", help="a folder that lies in memory")
    parser.add_argument("--json", metavar="FILE", help="where the figures go, instead of standard output")
    parser.add_argument("--toy", action="store_true", help="tiny networks and images: whether it runs")
    given = parser.parse_args()
    device = choose_device(given.device)
    side = given.side or (400 if given.toy else 16_384 if device.type == "cuda" else 2048)
    has_memory = os.access(given.memory_folder, os.W_OK)
    with TemporaryDirectory(dir=given.folder) as folder:
        if has_memory:
            with TemporaryDirectory(dir=given.memory_folder) as memory:
                bench = Bench(device, Path(folder), Path(memory), given.toy)
                found = measure(bench, given.seconds, side)
        else:
            found = measure(Bench(device, Path(folder), None, given.toy), given.seconds, side)
    text = json.dumps(found, indent=1)
    if given.json is None:
        print(text)
    else:
        Path(given.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
