"""Reading a bioimage.io 0.5 model package: a zip or a folder with an rdf.yaml and ONNX weights.

The specification: https://bioimage-io.github.io/spec-bioimage-io. Zips are never unpacked to disk, and no more is read
than the sizes they claim.
"""

import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models import PACKAGED
from tilesegment.models.header import Normalisation
from tilesegment.models.onnx_file import LARGEST, OnnxFile, parse_onnx
from tilesegment.networks.probing import LARGEST as PROBED

RDF = "rdf.yaml"
_LARGEST_RDF = 2**20
# deflate reaches at most 1032
_LARGEST_RATIO = 1100
_MICROMETRES = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}


@dataclass(frozen=True)
class Description:
    """What a package, or an ONNX file's metadata, says about its model.

    Attributes:
        name, licence: for people.
        view: field of view; not verified.
        normalisation: of the grey values before they are fed.
        names: of the output's channels; empty if not given.
        activation: `logits` if a sigmoid or softmax is to follow; None if not given.
        pixel_size: of the images, None if unknown.
    """

    name: str
    licence: str = ""
    view: FieldOfView | None = None
    normalisation: Normalisation | None = None
    names: tuple[str, ...] = ()
    activation: str | None = None
    pixel_size: PixelSize | None = None


def is_package(path: Path) -> bool:
    """Whether `path` looks like a package: a zip, an rdf.yaml, or a folder that holds one."""
    held = any(os.path.isfile(path / name) for name in PACKAGED)  # unlike Path.is_file, False for an impossible name
    return path.suffix.lower() == ".zip" or path.name in PACKAGED or held


def read_package(path: Path) -> tuple[Description, OnnxFile]:
    """Read the description of a package's model, and its weights.

    Raises:
        ModelError: damaged, hostile, of another version, without ONNX weights, or with unsupported requirements.
    """
    try:
        if path.suffix.lower() != ".zip":
            folder = path if path.is_dir() else path.parent
            return _read(folder, path, folder.resolve())
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check_entry(entry)
            return _read(zipfile.Path(archive), path, None)
    except ModelError as error:
        raise ModelError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: no zip, or a damaged one ({error}); download it again") from error


def _read(root: Path | zipfile.Path, path: Path, folder: Path | None) -> tuple[Description, OnnxFile]:
    """Read a package whose files lie below `root`; `folder` is its real path if it is no zip."""
    rdf_file = next((root / name for name in PACKAGED if (root / name).is_file()), None)
    if rdf_file is None:
        raise ModelError(
            f"no model package: it holds no {RDF}; pickled or zipped checkpoints could run code and are not opened"
        )
    with rdf_file.open("rb") as stream:
        rdf = _parse(stream.read(_LARGEST_RDF + 1))
    source, promised = _weights(rdf)
    file = root / source
    if folder is not None and not (folder / source).resolve().is_relative_to(folder):
        raise ModelError(f"its {RDF} names a file outside the package ({source!r}), which is not opened")
    if not file.is_file():
        raise ModelError(f"its {RDF} names {source!r}, which the package does not hold; download it again")
    content = file.read_bytes()
    if promised is not None and promised != hashlib.sha256(content).hexdigest():
        raise ModelError(f"{source!r} is not what {RDF} describes (SHA-256 differs); download it again")
    name, where = (path.stem, path) if folder is None else (folder.name, folder / source)
    return describe(rdf, name), parse_onnx(content, str(where), folder and where.parent)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Check a file of a zip before it is read; zipfile stops at the claimed size."""
    _check_name(entry.filename)
    packed, size = entry.compress_size, entry.file_size
    if size > min(LARGEST, _LARGEST_RATIO * max(packed, 1)):
        raise ModelError(f"{entry.filename} claims {size:,} bytes in {packed:,}; that is not opened")
    if entry.flag_bits & 1:
        raise ModelError(f"{entry.filename} is encrypted; unpack the package, and name its {RDF}")


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ModelError(f"names a file outside the package ({name!r}), which is not opened")


def _parse(text: bytes) -> Mapping[str, Any]:
    """Parse the description, and check that its version is supported."""
    import yaml

    if len(text) > _LARGEST_RDF:
        raise ModelError(f"its {RDF} is longer than {_LARGEST_RDF:,} bytes; that is not opened")
    try:
        rdf = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ModelError(f"its {RDF} is not YAML ({' '.join(str(error).split())[:100]})") from error
    if not isinstance(rdf, dict) or rdf.get("type") != "model":
        raise ModelError(f"its {RDF} describes no model")
    version = str(rdf.get("format_version"))
    if not version.startswith("0.5."):
        raise ModelError(f"bioimage.io format {version!r}; allowed: 0.5 (bioimageio.spec converts older ones)")
    return rdf


def _weights(rdf: Mapping[str, Any]) -> tuple[str, object]:
    """Name and SHA-256 (None if not given) of the ONNX weights."""
    weights = rdf.get("weights")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"its {RDF} names no weights")
    entry = weights.get("onnx")
    if not isinstance(entry, dict):
        raise ModelError(
            f"has weights as {', '.join(map(repr, weights))} only, which could run code or need another program; "
            "ask its makers for ONNX"
        )
    source = str(entry.get("source", ""))
    _check_name(source)
    return source, entry.get("sha256")


def describe(rdf: Mapping[str, Any], name: str) -> Description:
    """Read the description of a model from an rdf.yaml as plain values; `name` is for a model without one.

    Raises:
        ModelError: it has unsupported requirements, or does not follow the specification.
    """
    try:
        return _describe(rdf, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"its {RDF} does not follow version 0.5 ({error!r:.200})") from error


def _describe(rdf: Mapping[str, Any], name: str) -> Description:
    for what in ("inputs", "outputs"):
        if len(rdf[what]) != 1:
            raise ModelError(f"has {len(rdf[what])} {what}; it must have one")
    given, result = rdf["inputs"][0], rdf["outputs"][0]
    axes, out_axes = _axes(given["axes"], "input"), _axes(result["axes"], "output")
    names = tuple(map(str, out_axes["channel"]["channel_names"]))
    return Description(
        name=str(rdf.get("name", name)),
        licence=str(rdf.get("license") or ""),
        view=_view(axes, out_axes),
        normalisation=_normalisation(given, len(axes["channel"]["channel_names"])),
        names=names if len(set(names)) == len(names) else (),
        activation=_activation(result.get("postprocessing") or [], len(names)),
        pixel_size=_pixel_size(axes),
    )


def _axes(axes: Sequence[Mapping[str, Any]], what: str) -> dict[str, Mapping[str, Any]]:
    """The axes by name; they must be those of an image."""
    found = {str(axis.get("id", axis["type"])): axis for axis in axes}
    if list(found) != ["batch", "channel", "y", "x"]:
        raise ModelError(f"its {what} has the axes {', '.join(map(repr, found))}; they must be batch, channel, y, x")
    return found


def _view(axes: Mapping[str, Mapping[str, Any]], out_axes: Mapping[str, Mapping[str, Any]]) -> FieldOfView:
    """The field of view: a negative offset means unpadded convolutions, a halo same padding."""
    facts = []
    for axis in "yx":
        size, out = axes[axis]["size"], out_axes[axis]
        if not isinstance(size, dict) or "min" not in size:
            raise ModelError(f"takes images of {size!r} px along {axis} only; it must take any size")
        reference = out["size"]
        same = isinstance(reference, dict) and str(reference["axis_id"]) == axis
        if not same or float(out.get("scale", 1)) != float(axes[axis].get("scale", 1)):
            raise ModelError(f"gives another number of pixels along {axis} than it takes; it must give one for each")
        facts.append((int(size["min"]), int(size["step"]), int(reference.get("offset", 0)), int(out.get("halo", 0))))
    if facts[0] != facts[1]:
        raise ModelError(f"treats y {facts[0]} and x {facts[1]} differently (min, step, offset, halo)")
    least, step, offset, halo = facts[0]
    if not (0 < least <= 65_536 and 0 < step <= 512 and -2 * PROBED <= offset <= 0 and 0 <= halo <= 65_536):
        raise ModelError(f"its sizes are impossible: min {least}, step {step}, offset {offset}, halo {halo}")
    if offset and halo:
        raise ModelError(f"both crops {-offset} px itself and has a halo of {halo} px; only one of them is supported")
    before = -offset // 2 if offset else -(-halo // step) * step
    # the smallest size shows the surplus of the allowed sizes
    return FieldOfView(step, before, before + (least - 2 * before) % step, crops=offset != 0)


def _normalisation(given: Mapping[str, Any], channels: int) -> Normalisation:
    """All steps of the preprocessing as one: value * gain + offset, per channel, maybe after scaling by percentiles."""
    gain, offset, percentiles = [1.0] * channels, [0.0] * channels, None
    for step in given.get("preprocessing") or []:
        kind, options = step["id"], step.get("kwargs") or {}
        if kind == "scale_range":
            _check_gain(gain, offset)
            # percentiles take part in what was done to the values before, which thus makes no difference
            gain, offset, percentiles = [1.0] * channels, [0.0] * channels, _percentiles(options, channels)
            continue
        if options.get("axis", "channel") != "channel":
            raise ModelError(f"its preprocessing {kind!r} works along {options['axis']!r}; allowed: along channel")
        if kind == "ensure_dtype" and str(options.get("dtype", "")).startswith("float"):
            continue
        if kind == "scale_linear":
            factors = _per_channel(options.get("gain", 1), channels)
            summands = _per_channel(options.get("offset", 0), channels)
        elif kind == "fixed_zero_mean_unit_variance":
            means, stds = (_per_channel(options[key], channels) for key in ("mean", "std"))
            factors = [1 / std for std in stds]
            summands = [-mean / std for mean, std in zip(means, stds, strict=True)]
        else:
            raise ModelError(
                f"needs the preprocessing {kind!r}, which would show seams between tiles; allowed: ensure_dtype to "
                "float, scale_linear, fixed_zero_mean_unit_variance, scale_range of each channel"
            )
        gain = [g * f for g, f in zip(gain, factors, strict=True)]
        offset = [o * f + s for o, f, s in zip(offset, factors, summands, strict=True)]
    _check_gain(gain, offset)
    data = given.get("data") or {}
    kind = data.get("type", "float32") if isinstance(data, dict) else data[0].get("type", "float32")
    mean = tuple(-o / g for o, g in zip(offset, gain, strict=True))
    return Normalisation(mean, tuple(1 / g for g in gain), str(kind), percentiles)


def _check_gain(gain: Sequence[float], offset: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in (*gain, *offset)) or min(gain) <= 0:
        raise ModelError("its preprocessing inverts grey values, or makes them infinite; allowed: a positive gain")


def _percentiles(options: Mapping[str, Any], channels: int) -> tuple[float, float]:
    """Read those of `scale_range`, which are measured on the whole image here, not on what is fed at a time."""
    axes = options.get("axes")
    by_channel = {"y", "x"} if channels > 1 or "channel" not in (axes or ()) else {"channel", "y", "x"}
    if (axes is None and channels > 1) or (axes is not None and set(axes) != by_channel):
        raise ModelError(f"its scale_range works along {axes or 'all axes'}; allowed: y and x, for each channel")
    if options.get("reference_tensor"):
        raise ModelError(f"its scale_range takes the percentiles of {options['reference_tensor']!r}; allowed: its own")
    low, high = float(options.get("min_percentile", 0)), float(options.get("max_percentile", 100))
    if not 0 <= low < high <= 100:
        raise ModelError(f"its scale_range has the percentiles {low:g} and {high:g}; allowed: 0 to 100, ascending")
    return low, high


def _per_channel(value: Any, channels: int) -> list[float]:
    values = [float(v) for v in value] if isinstance(value, list) else [float(value)] * channels
    if len(values) != channels:
        raise ModelError(f"its preprocessing has {len(values)} values for {channels} channels")
    return values


def _activation(steps: Sequence[Mapping[str, Any]], channels: int) -> str | None:
    kinds = [step["id"] for step in steps if step["id"] != "ensure_dtype"]
    if not kinds:
        return None
    if kinds == ["softmax"] or (kinds == ["sigmoid"] and channels == 1):
        return "logits"
    listed = ", ".join(map(repr, kinds))
    raise ModelError(f"needs the postprocessing {listed}; allowed: none, softmax, and sigmoid of one channel")


def _pixel_size(axes: Mapping[str, Mapping[str, Any]]) -> PixelSize | None:
    units = [_MICROMETRES.get(str(axes[axis].get("unit"))) for axis in "yx"]
    y, x = (float(axes[axis].get("scale", 1)) for axis in "yx")
    return PixelSize(y * units[0], x * units[1]) if units[0] is not None and units[1] is not None else None
