"""A network in int8: calibrated on tiles of the image itself, its disagreement measured, both kept beside the model."""

import hashlib
import io
import json
import logging
import os
import stat
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkdtemp
from typing import TYPE_CHECKING

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.files import write_atomically
from tilesegment.geometry import Block, TileGrid
from tilesegment.models.model import Model, weights_hash
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.predictors.block import BlockPredictor
from tilesegment.prediction.predictors.openvino import convert, core

if TYPE_CHECKING:
    import openvino

# tiles of an image; every third is kept for measuring, the others calibrate; of large ones fewer show as much
_LEAST_SAMPLES, _MOST_SAMPLES, _SAMPLED = 3, 12, 4_000_000  # tiles, pixels
_RECIPE = 3  # number of the way in which a network is quantised: what was kept by another one is not taken


def sample_blocks(plan: Plan) -> list[tuple[int, Block]]:
    """Plane and block of some single tiles, spread over all that `plan` predicts; the same ones for the same plan."""
    view, step = plan.view, plan.sample_step
    grid = TileGrid(plan.region, step, step, view)
    count, columns = len(grid) * len(plan.planes), grid.shape[1]
    # one of each of so many equal ranges, anywhere in it
    wanted = min(max(round(_SAMPLED / view.tile_of(step) ** 2), _LEAST_SAMPLES), _MOST_SAMPLES)
    edges = np.linspace(0, count, min(count, wanted) + 1).astype(int)
    chosen = np.random.default_rng(0).integers(edges[:-1], edges[1:]).tolist()
    places = (divmod(index, len(grid)) for index in chosen)
    return [(plan.planes[z], grid.at(*divmod(place, columns))) for z, place in places]


def split(samples: list[tuple[np.ndarray, Block]]) -> tuple[list[np.ndarray], list[tuple[np.ndarray, Block]]]:
    """Pixels to calibrate on, and pixels with their blocks to measure on; of a single tile both are the same."""
    calibration = [pixels for number, (pixels, _) in enumerate(samples) if number % 3 != 1]
    return calibration, samples[1::3] or samples


def disagreement(
    predictor: BlockPredictor,
    make_exact: Callable[[], BlockPredictor],
    samples: list[tuple[np.ndarray, Block]],
    folder: Path,
) -> float:
    """Share of the pixels of `samples` to which a quantised network gives other classes than the same one in fp32.

    Args:
        predictor: runs the quantised network.
        make_exact: makes what runs the one in fp32; called only if it was not measured on these samples before.
        samples: pixels and their blocks.
        folder: of the quantised network, where what was measured is kept.
    """
    kept = folder / f"disagreement-{_digest_of(predictor, samples)}.json"
    # what is damaged is measured again
    with suppress(OSError, ValueError, TypeError):
        share = float(json.loads(kept.read_text()))
        if 0 <= share <= 1:
            return share
    exact = make_exact()
    differing = [predictor.predict(pixels, block) != exact.predict(pixels, block) for pixels, block in samples]
    share = float(np.mean(np.concatenate([each.ravel() for each in differing])))
    with suppress(OSError):  # then it is measured each time
        write_atomically(kept, json.dumps(share).encode())
    return share


def _digest_of(predictor: BlockPredictor, samples: list[tuple[np.ndarray, Block]]) -> str:
    """Name of what the disagreement depends on, beside the quantised network."""
    # CPUs without instructions for int8 add up in fewer bits
    cpu = [str(core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    facts = [cpu, predictor.threshold, len(predictor.symmetries), [str(block) for _, block in samples]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for pixels, _ in samples:
        digest.update(predictor.normalised(pixels).numpy().tobytes())
    return digest.hexdigest()[:16]


def folder_for(model: str | Path) -> Path:
    """Where the quantised networks of a model are kept: beside its file, or, where nothing can be written there or the
    model is a bundled one, in the user's cache; without one in a temporary folder of the user. It can be deleted.
    """
    path = Path(model)
    if path.is_file() and _can_write(path.parent):
        return path.with_name(f"{path.stem}.int8")
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else _own_cache()) / "tilesegment" / "int8"


def _own_cache() -> Path:
    """The cache in the user's home, if there is one and it can be written, else a folder that is the user's alone."""
    with suppress(RuntimeError, OSError):  # no home at all
        cache = Path.home() / ".cache"
        below = cache / "tilesegment" / "int8"
        there = next(folder for folder in (below, *below.parents) if os.path.isdir(folder))
        if _can_write(there):
            return cache
    folder = Path(gettempdir()) / f"tilesegment-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    # networks are run from it: it must not be one that somebody else has put there
    found = folder.lstat() if os.path.lexists(folder) else None
    if found is not None and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return folder
    return Path(mkdtemp(prefix="tilesegment-"))


def _can_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def quantised(model: Model, inputs: list[np.ndarray], folder: Path) -> tuple["openvino.Model", Path]:
    """The network with weights in int8 a channel and activations in int8 a tensor, and the folder of its files.

    It is for tiles of the shape of `inputs`, and can be reshaped for others.

    Args:
        model: of which the network is taken.
        inputs: normalised tiles (C, H, W) float32 that show which values occur.
        folder: in which it is kept, and found the next time.

    Raises:
        ModelError: it cannot be converted, or cannot be kept or read again.
    """
    kept, shape = folder / _key(model, inputs), (1, *inputs[0].shape)
    runtime = core()  # before NNCF makes and frees cores of its own
    if not kept.exists():
        network = convert(model.network, model.header.name, shape)
        _keep(_quantise(network, [each[None] for each in inputs]), kept)
    try:
        return runtime.read_model(kept / "network.xml"), kept
    except RuntimeError as error:
        raise ModelError(f"{kept} cannot be read; delete it, and it is made anew") from error


def _keep(network: "openvino.Model", folder: Path) -> None:
    """Writes it whole or not at all; of two processes that do so at once the first is right."""
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
                f"{folder} cannot be written ({reason}); let XDG_CACHE_HOME name a folder where it can, or give "
                "--precision fp32"
            ) from error


def _key(model: Model, inputs: list[np.ndarray]) -> str:
    """Name of what these weights and these tiles give."""
    header = model.header
    tools = [_RECIPE, *(version(name) for name in ("openvino", "nncf"))]
    # of a model from a file they are known
    weights = header.weights_sha256 or weights_hash(model.network.state_dict())
    facts = [header.network, dict(header.arguments), header.halo, weights, tools]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for each in inputs:
        digest.update(str(each.shape).encode() + np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()[:16]


def crop_by_strides(network: "openvino.Model") -> None:
    """Replaces every operation that crops by fixed bounds by its older form, through which NNCF lets integers pass.

    Else a skip is computed in fp32, cropped in fp32, and then rounded: a tenth of the time of a U-Net in int8. Bounds
    at the end are counted from there: a skip is cropped by as much in any tile, and so the network can be reshaped.
    """
    from openvino import opset8

    crops = [each for each in network.get_ordered_ops() if each.get_type_name() == "Slice"]
    shapes = [np.array(list(crop.get_input_shape(0))) for crop in crops]  # of a crop of a crop, before that is replaced
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
        # 1 in a mask stands for all there is on that side
        masks = ((each == 0).astype(int).tolist() for each in (start, stop))
        replaced = opset8.strided_slice(crop.input_value(0), *places, *masks)
        for target in crop.output(0).get_target_inputs():
            target.replace_source_output(replaced.output(0))
    network.validate_nodes_and_infer_types()


def _settle_home() -> None:
    """Name some home where this user has none: nncf asks for one as it is imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = gettempdir()


def _quantise(network: "openvino.Model", inputs: list[np.ndarray]) -> "openvino.Model":
    crop_by_strides(network)
    _settle_home()
    # it draws its progress on the standard output
    with redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(
            network, nncf.Dataset(inputs), preset=nncf.QuantizationPreset.MIXED, subset_size=len(inputs)
        )
