"""One function for each way of segmenting an image by tiles, as compare_peers.py compares them.

    python examples/peers.py NAME FOLDER TILE

makes a mask of image and model in FOLDER twice, and leaves seconds and memory as JSON.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor, nn

import tilesegment
from tilesegment import Model
from tilesegment.geometry import mirror_indices
from tilesegment.networks import build_network
from tilesegment.prediction.devices import PRECISIONS

IMAGE, MODEL = "image.zarr", "model.safetensors"


@dataclass(frozen=True)
class Work:
    """One image to segment.

    Attributes:
        folder: holds the image (H, W) uint8 and the model, and gets the mask.
        name, precision: of the contender.
        tile: side of the tiles of the model's network, pixels.
    """

    folder: Path
    name: str
    precision: str
    tile: int

    @property
    def mask(self) -> Path:
        """Zarr that gets the class ids (H, W) uint8."""
        return self.folder / f"{self.name}.zarr"

    def open_image(self) -> zarr.Array:
        """The image, as zarr opens it."""
        return zarr.open_array(self.folder / IMAGE, mode="r")

    def read_image(self) -> np.ndarray:
        """All of the image, (H, W) uint8."""
        return np.asarray(self.open_image()[:])

    def create_mask(self, shape: tuple[int, ...], chunk: int = 512) -> zarr.Array:
        """A new array of `shape` (H, W) uint8, compressed as zarr does by default."""
        return zarr.create_array(self.mask, shape=shape, chunks=(chunk, chunk), dtype=np.uint8)

    def write_mask(self, ids: np.ndarray) -> None:
        """Store a mask (H, W) uint8."""
        self.create_mask(ids.shape)[:] = ids


class Handed(nn.Module):
    """The network as the others get it: from a tile to the logits of the part that is kept.

    Args:
        model: whose network it is.
        precision: of its weights and activations.
        channels_last: the layout that CPUs and GPUs convolve fastest, and that ours has; False is PyTorch's default.
    """

    def __init__(self, model: Model, precision: str = "fp32", *, channels_last: bool = True) -> None:
        super().__init__()
        self.dtype, self.view = PRECISIONS[precision], model.field_of_view
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network = model.network.to(self.dtype).to(memory_format=self.layout)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) float32 of normalised tiles (B, 1, before + h + after, before + w + after)."""
        logits = self.network(x.to(self.dtype).contiguous(memory_format=self.layout))
        first = 0 if self.view.crops else self.view.before
        height, width = (side - self.view.before - self.view.after for side in x.shape[-2:])
        return logits[..., first : first + height, first : first + width].float()

    @property
    def halo(self) -> int:
        """Context that is enough on either side and keeps tiles on the grid of the divisor, pixels."""
        return -(-max(self.view.before, self.view.after) // self.view.divisor) * self.view.divisor

    def framed(self, x: Tensor) -> Tensor:
        """Logits as large as `x` (B, 1, halo + h + halo, halo + w + halo), 0 in the frame."""
        start = self.halo - self.view.before
        bottom, right = (side - self.halo + self.view.after for side in x.shape[-2:])
        return nn.functional.pad(self(x[..., start:bottom, start:right]), [self.halo] * 4)


def padded(model: Model) -> Model:
    """The same weights in a U-Net of padded convolutions, whose output is as large as its input."""
    if not model.network.crops:
        return model
    header = replace(model.header, network="unet-same", arguments={**model.header.arguments, "norm": "none"})
    network = build_network(header.network, header.arguments)
    network.load_state_dict(model.network.state_dict())
    return Model(header, network.requires_grad_(False).eval())


def normalised(model: Model, pixels: np.ndarray) -> np.ndarray:
    """What the network sees of grey values: float32 of the same shape."""
    scale = model.header.normalisation
    return (pixels.astype(np.float32) - np.float32(scale.mean[0])) / np.float32(scale.std[0])


def decide(model: Model, logits: Tensor) -> np.ndarray:
    """Class ids (H, W) uint8 of logits (K, H, W), by the model's threshold."""
    if len(model.header.classes) > 2:
        return logits.max(0).indices.to(torch.uint8).numpy()  # argmax over this axis is twenty times as slow
    return (torch.softmax(logits, 0)[1] > model.header.threshold).to(torch.uint8).numpy()


def mirrored(model: Model, image: np.ndarray, step: int) -> Tensor:
    """The normalised image (1, 1, H', W') with mirrored context around a whole number of steps."""
    view = model.field_of_view
    rows, columns = (mirror_indices(-view.before, -(-size // step) * step + view.after, size) for size in image.shape)
    return torch.from_numpy(normalised(model, image[np.ix_(rows, columns)]))[None, None]


def untiled(work: Work, model: Model) -> Callable[[], None]:
    """One pass over the whole mirror-padded image, by PyTorch as it is."""
    network = Handed(model, work.precision, channels_last=False)

    def call() -> None:
        image = work.read_image()
        logits = network(mirrored(model, image, model.field_of_view.divisor))[0]
        work.write_mask(decide(model, logits[:, : image.shape[0], : image.shape[1]]))

    return call


def ours(work: Work, model: Model) -> Callable[[], object]:
    """`tilesegment.predict`, as a user calls it: it loads the model, too, syncs what it stores, writes a pyramid."""
    paths = work.folder / IMAGE, work.mask, work.folder / MODEL
    return partial(tilesegment.predict, *paths, tile=work.tile, device="cpu", precision=work.precision)


def ours_default(work: Work, model: Model) -> Callable[[], object]:
    """The same, with the tile that it chooses for the image."""
    paths = work.folder / IMAGE, work.mask, work.folder / MODEL
    return partial(tilesegment.predict, *paths, device="cpu", precision=work.precision)


def monai(work: Work, model: Model) -> Callable[[], None]:
    """`sliding_window_inference` with its defaults, of the whole image in memory."""
    from monai.inferers import sliding_window_inference

    same = padded(model)
    divisor = same.field_of_view.divisor
    side = -(-work.tile // divisor) * divisor

    def call() -> None:
        image = torch.from_numpy(normalised(same, work.read_image()))[None, None]
        work.write_mask(decide(same, sliding_window_inference(image, (side, side), 1, same.network)[0]))

    return call


def monai_exact(work: Work, model: Model) -> Callable[[], None]:
    """The same made exact: the image mirror-padded, windows a step apart, all but the kept centre weighed 0."""
    from monai.inferers import sliding_window_inference

    network, view = Handed(model, work.precision), model.field_of_view
    sides, step, frame = (work.tile, work.tile), view.step_of(work.tile), (view.before, view.after) * 2
    weights = nn.functional.pad(torch.ones(step, step), frame)
    # the function takes the whole part of (1 - overlap) * tile
    overlap = 1 - (step + 0.5) / work.tile

    def predict(tiles: Tensor) -> Tensor:
        return nn.functional.pad(network(tiles), frame)

    def call() -> None:
        image = work.read_image()
        whole = mirrored(model, image, step)
        logits = sliding_window_inference(whole, sides, 1, predict, overlap, roi_weight_map=weights)[0]
        inner = (slice(view.before, view.before + size) for size in image.shape)
        work.write_mask(decide(model, logits[:, *inner]))

    return call


def torch_em(work: Work, model: Model) -> Callable[[], None]:
    """`predict_with_halo_pipelined` as it is shipped: it standardises every block by itself."""
    return pipelined(work, model, Handed(model, work.precision, channels_last=False))


def torch_em_exact(work: Work, model: Model) -> Callable[[], None]:
    """The same, handed a network in channels-last layout, the model's normalisation, and a second writer."""
    options = {"preprocess": lambda pixels: normalised(model, pixels), "num_write_workers": 2}
    return pipelined(work, model, Handed(model, work.precision), **options)


def pipelined(work: Work, model: Model, network: Handed, **options: Any) -> Callable[[], None]:
    """`predict_with_halo_pipelined`, from Zarr to Zarr; its blocks are one tile, on the grid of the divisor."""
    if find_spec("torchvision") is None:
        # its training imports torchvision, which is not built for every PyTorch; predicting does not use it
        stub, utils = ModuleType("torchvision"), ModuleType("torchvision.utils")
        vars(utils)["make_grid"] = vars(stub)["transforms"] = None
        sys.modules |= {"torchvision": stub, "torchvision.utils": utils}
    from torch_em.util.prediction import predict_with_halo_pipelined

    step = model.field_of_view.step_of(work.tile)
    options |= {"gpu_ids": ["cpu"], "block_shape": (step, step), "halo": (network.halo, network.halo)}
    options |= {"prediction_function": Handed.framed, "disable_tqdm": True}
    options["postprocess"] = lambda logits: decide(model, torch.from_numpy(logits))

    def call() -> None:
        image = work.open_image()
        predict_with_halo_pipelined(image, network, output=work.create_mask(image.shape, step), **options)

    return call


def dask(work: Work, model: Model) -> Callable[[], None]:
    """`map_overlap` with boundary `reflect`, which repeats the edge pixel; as many tiles at a time as threads."""
    import dask
    import dask.array

    network, step = Handed(model, work.precision), model.field_of_view.step_of(work.tile)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def predict(block: np.ndarray) -> np.ndarray:
        # the last ones are smaller: the network takes whole steps
        more = [(0, -(side - 2 * network.halo) % step) for side in block.shape]
        tile = torch.from_numpy(normalised(model, np.pad(block, more, "edge")))
        return decide(model, network.framed(tile[None, None])[0])[: block.shape[0], : block.shape[1]]

    def call() -> None:
        image = dask.array.from_zarr(work.folder / IMAGE).rechunk((step, step))
        options = {"depth": network.halo, "boundary": "reflect", "dtype": np.uint8, "meta": np.empty((0, 0), np.uint8)}
        # chunks narrower than the halo come back joined to their neighbours, and Zarr's are all alike
        mask = dask.array.map_overlap(predict, image, **options).rechunk((step, step))
        with dask.config.set(scheduler="threads", num_workers=threads):
            mask.to_zarr(work.mask)

    return call


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Attributes:
        prepare: does the untimed part and returns the timed one.
        precision: of its computation.
        truth: the contender whose mask it should reproduce.
        packages: to import.
    """

    prepare: Callable[[Work, Model], Callable[[], object]]
    precision: str = "fp32"
    truth: str = "untiled"
    packages: tuple[str, ...] = ()


CONTENDERS = {
    "untiled": Contender(untiled),
    "untiled-padded": Contender(lambda work, model: untiled(work, padded(model)), truth="untiled-padded"),
    "ours": Contender(ours),
    "ours-default": Contender(ours_default, "auto"),
    "ours-bf16": Contender(ours, "bf16"),
    "ours-int8": Contender(ours, "int8", packages=("openvino", "nncf")),
    "ours-int8-default": Contender(ours_default, "int8", packages=("openvino", "nncf")),
    "monai": Contender(monai, truth="untiled-padded", packages=("monai",)),
    "monai-exact": Contender(monai_exact, packages=("monai",)),
    "monai-exact-bf16": Contender(monai_exact, "bf16", packages=("monai",)),
    "torch-em": Contender(torch_em, packages=("torch_em",)),
    "torch-em-exact": Contender(torch_em_exact, packages=("torch_em",)),
    "torch-em-exact-bf16": Contender(torch_em_exact, "bf16", packages=("torch_em",)),
    "dask": Contender(dask),
}


def compete(name: str, folder: Path, tile: int) -> None:
    """Run the contender `name` twice: what is made once costs the first call only."""
    work = Work(folder, name, CONTENDERS[name].precision, tile)
    call = CONTENDERS[name].prepare(work, Model.load(folder / MODEL))
    seconds = []
    for _ in range(2):
        shutil.rmtree(work.mask, ignore_errors=True)
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    # its imports take memory that most contenders do not use
    from tilesegment.prediction.result import peak_memory

    found = {"first": seconds[0], "seconds": seconds[1], "peak_bytes": peak_memory()}
    (folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    compete(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
