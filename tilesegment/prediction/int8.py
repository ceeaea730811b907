"""A network in int8: calibrated on tiles of the image itself, its disagreement measured, both cached on disk."""

import hashlib
import io
import json
import logging
import os
import stat
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkdtemp
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch

from tilesegment.errors import DeviceError, ModelError
from tilesegment.files import write_atomically
from tilesegment.geometry import Block, TileGrid
from tilesegment.models.model import Model, weights_hash
from tilesegment.prediction.openvino import OpenVinoPredictor, convert, core
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.predictor import BlockPredictor, Options

if TYPE_CHECKING:
    import openvino

Samples = list[tuple[np.ndarray, Block]]

# tiles of an image: every third measures, the others calibrate; fewer large ones are enough
_LEAST_SAMPLES, _MOST_SAMPLES, _SAMPLED = 3, 12, 4_000_000  # tiles, pixels
_RECIPE = 3  # version of the way a network is quantised; networks cached by another one are ignored


def sample_blocks(plan: Plan) -> list[tuple[int, Block]]:
    """Choose planes and single-tile blocks spread over all that `plan` predicts, the same ones for the same plan."""
    view, step = plan.view, plan.sample_step
    grid = TileGrid(plan.region, step, step, view)
    count, columns = len(grid) * len(plan.planes), grid.shape[1]
    # a random one from each of `wanted` equal ranges
    wanted = min(max(round(_SAMPLED / view.tile_of(step) ** 2), _LEAST_SAMPLES), _MOST_SAMPLES)
    edges = np.linspace(0, count, min(count, wanted) + 1).astype(int)
    chosen = np.random.default_rng(0).integers(edges[:-1], edges[1:]).tolist()
    places = (divmod(index, len(grid)) for index in chosen)
    return [(plan.planes[z], grid.at(*divmod(place, columns))) for z, place in places]


def int8_predictor(
    model: Model, tile: int, samples: Samples, folder: Path, **options: Unpack[Options]
) -> OpenVinoPredictor:
    """Quantise a model on two thirds of `samples` and measure its disagreement with fp32 on the others.

    Args:
        model, options: the network with its header; see `Options`.
        tile: side of the tiles in pixels.
        samples: pixels (C, H, W) of single tiles with their blocks; a single one serves both.
        folder: cache of quantised networks and measurements.

    Raises:
        DeviceError: the network has no parameters, as that of an ONNX file, which runs as it is.
        ModelError: see `quantised`.
    """
    if not any(True for _ in model.network.parameters()):
        raise DeviceError(
            f"precision int8 does not support {model.header.name}, whose network runs as it is; give --precision fp32"
        )
    normalised = BlockPredictor(model, torch.device("cpu"), torch.float32, options).normalised
    calibration = [normalised(pixels).numpy() for number, (pixels, _) in enumerate(samples) if number % 3 != 1]
    network, cached = quantised(model, calibration, folder)
    predictor = OpenVinoPredictor(model, tile, quantised=network, **options)
    held_out = samples[1::3] or samples
    file = cached / f"disagreement-{_measurement_key(predictor, held_out)}.json"
    # a damaged file is replaced
    with suppress(OSError, ValueError, TypeError):
        share = float(json.loads(file.read_text()))
        if 0 <= share <= 1:
            predictor.disagreement = share
            return predictor
    exact = OpenVinoPredictor(model, tile, **options)
    differing = [(predictor.predict(*sample) != exact.predict(*sample)).ravel() for sample in held_out]
    predictor.disagreement = float(np.mean(np.concatenate(differing)))
    with suppress(OSError):  # then it is measured each time
        write_atomically(file, json.dumps(predictor.disagreement).encode())
    return predictor


def folder_for(model: str | Path) -> Path:
    """Choose where quantised networks of a model are cached; the folder can be deleted.

    Beside the model's file; for a bundled model, or where that folder is read-only, in the user's cache; without one in
    a private temporary folder.
    """
    path = Path(model)
    if path.is_file() and _writable(path.parent):
        return path.with_name(f"{path.stem}.int8")
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "tilesegment" / "int8"
    with suppress(RuntimeError, OSError):  # the user has no home
        cache = Path.home() / ".cache" / "tilesegment" / "int8"
        if _writable(next(folder for folder in (cache, *cache.parents) if os.path.isdir(folder))):
            return cache
    private = Path(gettempdir()) / f"tilesegment-{os.getuid()}"
    with suppress(OSError):
        private.mkdir(mode=0o700)
    # networks are run from it: no other user may own it or write to it
    found = private.lstat() if os.path.lexists(private) else None
    if found is None or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        private = Path(mkdtemp(prefix="tilesegment-"))
    return private / "tilesegment" / "int8"


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def quantised(model: Model, inputs: list[np.ndarray], folder: Path) -> tuple["openvino.Model", Path]:
    """Return the network with int8 weights per channel and int8 activations per tensor, and the folder it is cached in.

    It is for tiles of the shape of `inputs`, and can be reshaped for others.

    Args:
        model, folder: whose network is quantised; the cache.
        inputs: normalised tiles (C, H, W) float32 that show which values occur.

    Raises:
        ModelError: the network cannot be converted, written or read again.
    """
    cached, shape = folder / _network_key(model, inputs), (1, *inputs[0].shape)
    runtime = core()  # before NNCF makes and frees other cores
    if not cached.exists():
        network = convert(model.network, model.header.name, shape)
        _save(_quantise(network, [each[None] for each in inputs]), cached)
    try:
        return runtime.read_model(cached / "network.xml"), cached
    except RuntimeError as error:
        raise ModelError(f"{cached} cannot be read; delete it to have it made again") from error


def _save(network: "openvino.Model", folder: Path) -> None:
    """Write the network whole or not at all; if two processes do so at once, the first wins."""
    import openvino

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
            openvino.save_model(network, Path(temporary) / "network.xml", compress_to_fp16=False)
            if not folder.exists():
                Path(temporary).rename(folder)
    except (OSError, RuntimeError) as error:  # the latter is OpenVINO's
        if not folder.exists():
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{folder} cannot be written ({reason}); set XDG_CACHE_HOME to a writable folder, or give "
                "--precision fp32"
            ) from error


def _network_key(model: Model, inputs: list[np.ndarray]) -> str:
    """Hash the weights, the tiles and the versions of the tools."""
    header = model.header
    tools = [_RECIPE, *(version(name) for name in ("openvino", "nncf"))]
    weights = header.weights_sha256 or weights_hash(model.network.state_dict())
    facts = [header.network, dict(header.arguments), header.halo, weights, tools]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for each in inputs:
        digest.update(str(each.shape).encode() + np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()[:16]


def _measurement_key(predictor: BlockPredictor, samples: Samples) -> str:
    """Hash what the disagreement depends on, apart from the quantised network."""
    # CPUs without int8 instructions accumulate in fewer bits
    cpu = [str(core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    facts = [cpu, predictor.threshold, len(predictor.symmetries), [str(block) for _, block in samples]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for pixels, _ in samples:
        digest.update(predictor.normalised(pixels).numpy().tobytes())
    return digest.hexdigest()[:16]


def _quantise(network: "openvino.Model", inputs: list[np.ndarray]) -> "openvino.Model":
    crop_by_strides(network)
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = gettempdir()  # nncf needs one to be imported
    # it prints its progress on stdout
    with redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(
            network, nncf.Dataset(inputs), preset=nncf.QuantizationPreset.MIXED, subset_size=len(inputs)
        )


def crop_by_strides(network: "openvino.Model") -> None:
    """Replace each crop by fixed bounds with the older operation, through which NNCF lets integers pass.

    Otherwise a skip is computed and cropped in fp32 and then rounded: a tenth of the time of a U-Net in int8. Bounds at
    the end are counted from there: a skip is cropped by as much in any tile, so the network can be reshaped.
    """
    from openvino import opset8

    crops = [each for each in network.get_ordered_ops() if each.get_type_name() == "Slice"]
    shapes = [np.array(list(crop.get_input_shape(0))) for crop in crops]  # before a crop of a crop is replaced
    for crop, sides in zip(crops, shapes, strict=True):
        bounds = [value.get_node() for value in crop.input_values()[1:]]
        if len(bounds) < 4 or any(bound.get_type_name() != "Constant" for bound in bounds):
            continue
        starts, stops, steps, axes = (bound.get_data() for bound in bounds)
        if np.any(steps != 1):
            continue
        start, stop = np.zeros_like(sides), np.zeros_like(sides)
        start[axes], stop[axes] = starts, np.where(stops < 0, stops, np.minimum(stops - sides[axes], 0))
        places = (opset8.constant(each) for each in (start, stop, np.ones_like(sides)))
        # 1 in a mask means up to the border on that side
        masks = ((each == 0).astype(int).tolist() for each in (start, stop))
        replaced = opset8.strided_slice(crop.input_value(0), *places, *masks)
        for target in crop.output(0).get_target_inputs():
            target.replace_source_output(replaced.output(0))
    network.validate_nodes_and_infer_types()
