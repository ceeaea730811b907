"""What the user chose: how to predict (`Settings`), and where to write (`Outputs`)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.objects.settings import ObjectSettings
from tilesegment.stores import Options, Place, is_url, place_of

if TYPE_CHECKING:
    from tilesegment.models.model import Model

Check = tuple[Callable[[Any], bool], str]


def _among(*names: str) -> Check:
    return lambda value: value in names, ", ".join(names)


def _between(low: int, high: int, unit: str = "") -> Check:
    return lambda value: isinstance(value, Integral) and low <= int(value) <= high, f"{low} to {high}{unit}"


def _positive(value: Any) -> bool:
    return isinstance(value, Real) and isfinite(float(value)) and float(value) > 0


# allowed values of settings, as a check and in words; None is always allowed where it is the default
_ALLOWED: dict[str, Check] = {
    "batch": _between(1, 1024),
    "block": _between(1, 1 << 19, " pixels"),
    "halo": _between(0, 65_536, " pixels"),
    "series": _between(0, 1 << 31, ", counted from 0"),
    "threshold": (lambda value: 0 < value < 1, "between 0 and 1"),
    "roi": (
        lambda value: isinstance(value, Region | str | Path),
        "a tilesegment.Region(y0, x0, y1, x1), or the path of a GeoJSON file",
    ),
    "runtime": _among("auto", "pytorch", "openvino"),
    "normalise": _among("model", "image"),
    "diameter": (_positive, "positive, in pixels of level 0"),
    "mpp": (lambda value: value == "model" or _positive(value), "model, or a positive number of micrometres"),
    "source_mpp": (_positive, "positive, in micrometres"),
    "part": (lambda value: 1 <= value[0] <= value[1], "k/n with k from 1 to n, such as 1/4"),
}


@dataclass(frozen=True)
class Settings:
    """How to predict; None leaves a choice to the plan.

    Attributes:
        model: file, name of a bundled model, or a loaded `Model`; by default the bundled one for such images.
        axes, select: how to read the image's dimensions, see `open_image`.
        series: number of the image in a file that holds several, from 0; by default the largest.
        invert: where a file says that 0 is white (MINISWHITE), invert its values so that 0 is black.
        tile: side of the network's input, pixels; by default the one that computes the fewest pixels.
        batch: tiles at a time.
        block: side of a block in pixels, about: the unit of reading, resuming and cluster tasks.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or, on a CPU with OpenVINO, int8; fp64 to verify.
        runtime: what runs the network: auto, pytorch or, on a CPU, openvino.
        roi: only these pixels, of level 0; or the path of a GeoJSON file: only what lies in its areas, the rest of the
            image becomes class 0.
        level: of the image's pyramid.
        diameter: median diameter of the objects in this image, in pixels of level 0: it is resampled so that they are
            as large as in training.
        mpp: pixel size, in micrometres, to which the image is resampled; `model` takes that of the training images.
        source_mpp: of level 0, in micrometres, where the file does not say it or is wrong.
        z: only these planes, half-open.
        channels: of the image, in the order in which the model takes them.
        halo: context of a tile in pixels, instead of the one that makes tiles exact.
        prune: of a U-Net++, the level of the head to use.
        threshold: two classes: probability above which a pixel is class 1.
        tta: average over the 8 symmetries of the square: 8 times the work, often a better mask.
        normalise: `model` takes the grey values that the model was trained on or, if it scales by percentiles, those of
            the whole image; `image` measures mean and spread of what is predicted.
        skip_empty: which blocks become class 0 without a prediction: `constant`, those of one value; `tissue`, those
            without tissue; the file of a mask, those where it is zero; or a GeoJSON file, those that no area touches.
            None predicts all.
        store_options: how the server of a URL is reached, see `tilesegment.stores.OPTIONS`; never a secret.
        part: (k, n), only the k-th of n parts of the blocks, counted from 1.

    Raises:
        PlanError: a value that is not allowed.
    """

    model: "str | Path | Model | None" = None
    axes: str | None = None
    select: Mapping[str, int] | None = None
    series: int | None = None
    invert: bool = False
    tile: int | None = None
    batch: int | None = None
    block: int | None = None
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    roi: Region | str | Path | None = None
    level: int = 0
    diameter: float | None = None
    mpp: float | str | None = None
    source_mpp: float | None = None
    z: tuple[int, int] | None = None
    channels: tuple[int, ...] | None = None
    halo: int | None = None
    prune: int | None = None
    threshold: float | None = None
    tta: bool = False
    normalise: str = "model"
    skip_empty: str | None = None
    part: tuple[int, int] | None = None
    store_options: Options = ()

    def __post_init__(self) -> None:
        for name, (allows, words) in _ALLOWED.items():
            value = getattr(self, name)
            if value is not None and not allows(value):
                shown = "/".join(map(str, value)) if name == "part" else value
                raise PlanError(f"--{name.replace('_', '-')} is {shown}; allowed: {words}")
        scales = [f"--{name}" for name in ("level", "diameter", "mpp") if getattr(self, name)]
        if len(scales) > 1:
            raise PlanError(f"{' and '.join(scales)} each say at which size the image is predicted: give one of them")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Make settings from keyword arguments. A torch.nn.Module as model becomes a `Model`, see `model_of`.

        The grey values that a module takes are unknown: they are normalised by the image unless `normalise` is given.

        Raises:
            PlanError: there is no such setting, or its value is not allowed.
            ModelError: the module is no network that can be tiled.
        """
        check_names(given, (one.name for one in fields(cls)))
        if isinstance(given.get("model"), str | Path | None):
            return cls(**given)
        from tilesegment.models.any_module import model_of
        from tilesegment.models.model import Model

        model = given["model"]
        if isinstance(model, Model):
            return cls(**given)
        try:
            made = model_of(model, halo=given.get("halo"))
        except AttributeError as error:
            raise PlanError(
                f"model is a {type(model).__name__}; allowed: a path, a Model or a torch.nn.Module"
            ) from error
        return cls(**{"normalise": "image", **given, "model": made})

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `open_image`."""
        names = ("axes", "select", "series", "invert", "store_options")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Outputs:
    """Where a prediction is written.

    Attributes:
        mask: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif` or `mask.png`; of a store only `s3://BUCKET/mask.zarr`.
        probabilities: `p.zarr` for the class probabilities (K, H, W).
        preview: a PNG or JPEG, image and overlay side by side.
        ngff: OME-Zarr version of a mask on its own.
        overwrite: replace what is there, once the new is complete.
        probabilities_dtype: of the probabilities, `float32`, or `uint8` for 0 to 255.
        heatmap: a PNG of how probable a class is, drawn from the probabilities.
        heatmap_class: name or number of that class; None is every class but 0.
        objects: files for the objects of the mask, as `find_objects` writes them.
        object_settings: how they are made.
        measure_image: whether their grey values in the image are measured.
        keep_mask: False deletes the mask once the objects are written.
        keep_object_record: whether a small hidden file stays beside the objects, by which the next run knows that they
            were made of this mask and with these settings.
    """

    mask: str | Place
    probabilities: str | Place | None = None
    preview: str | Path | None = None
    ngff: str = "0.5"
    overwrite: bool = False
    probabilities_dtype: str = "float32"
    heatmap: str | Path | None = None
    heatmap_class: str | None = None
    objects: tuple[str | Path, ...] = ()
    object_settings: ObjectSettings = field(default_factory=ObjectSettings)
    measure_image: bool = False
    keep_mask: bool = True
    keep_object_record: bool = False

    @classmethod
    def of(cls, mask: str | Place | None, given: Mapping[str, Any]) -> Self:
        """Make outputs from keyword arguments; without a mask it is worked out beside the objects, and deleted.

        `objects` may be one path, and `object_settings` a mapping.

        Raises:
            PlanError: there is no such setting of objects, its value is not allowed, or nothing is to be written.
        """
        chosen = dict(given)
        if isinstance(chosen.get("objects"), str | Path):
            chosen["objects"] = (chosen["objects"],)
        chosen["objects"] = tuple(chosen.get("objects") or ())
        if isinstance(chosen.get("object_settings"), Mapping):
            chosen["object_settings"] = ObjectSettings.of(chosen["object_settings"])
        if mask is None:
            if not chosen["objects"]:
                raise PlanError("nothing is to be written: name a mask with --out, or files for --objects")
            from tilesegment.prediction.objects import hidden_mask

            return cls(hidden_mask(chosen["objects"]), **chosen, keep_mask=False)
        return cls(mask, **chosen)

    def reached_by(self, options: Options) -> Self:
        """Return the same with masks and probabilities that are URLs as places that are reached by these options.

        Raises:
            StoreError: a URL is not one that can be written to.
        """
        urls = [name for name in ("mask", "probabilities") if is_url(getattr(self, name))]
        places: dict[str, Any] = {name: place_of(getattr(self, name), options) for name in urls}
        return replace(self, **places)


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Check that every setting that was given exists.

    Raises:
        PlanError: one does not; the message lists those that do.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise PlanError(f"there is no setting {name!r}; there are: {', '.join(known)}")
