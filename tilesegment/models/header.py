"""The header of a model file, readable without torch.

A model is one safetensors file: 8 bytes of length, a JSON header, the weights. The header's metadata holds one string
under `tilesegment`: the JSON form of `ModelHeader`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tilesegment.errors import ModelError
from tilesegment.metadata import GROUNDS, ROLES, LabelClass, PixelSize

KEY = "tilesegment"
VERSION, NEWER = 1, 2  # a header is of the newer version only if it says what releases of the older would overlook
_NEW = ("diameter", "ground")  # fields of the newer version


@dataclass(frozen=True)
class Normalisation:
    """Grey values become (value - mean) / std, per channel, fixed at training.

    Attributes:
        mean, std: one per channel, in grey values of `dtype`.
        dtype: of the training images; other dtypes have other scales.
        percentiles: if given, grey values of any dtype are first scaled so that these percentiles of each channel of
            the whole image become 0 and 1; `mean` and `std` are those of the scaled values.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str
    percentiles: tuple[float, float] | None = None

    def for_limits(self, limits: Sequence[tuple[float, float]], dtype: str) -> "Normalisation":
        """Return the equivalent without percentiles for an image of `dtype` that has them at `limits`, per channel."""
        spans = [high - low for low, high in limits]
        mean = tuple(low + one * span for one, (low, _), span in zip(self.mean, limits, spans, strict=True))
        return Normalisation(mean, tuple(one * span for one, span in zip(self.std, spans, strict=True)), dtype)

    @property
    def types(self) -> str:
        """The dtypes of images that it is for, in words."""
        return self.dtype if self.percentiles is None else "any type"

    @property
    def words(self) -> str:
        """How grey values are scaled first; "" if they are not."""
        if self.percentiles is None:
            return ""
        low, high = self.percentiles
        return f"scaled so that the percentiles {low:g} and {high:g} of the whole image become 0 and 1"

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a dictionary, percentiles only if there are any."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class ModelHeader:
    """All that using a network requires, except its weights.

    Attributes:
        network, arguments: as `networks.build_network` takes them.
        classes: the id of a class is its position.
        normalisation: fixed at training.
        pixel_size: of the training images, None if unknown.
        threshold: for two classes, the probability above which a pixel is class 1.
        halo: chosen context of a tile in pixels; None is the exact one.
        name, licence: for people.
        training: record of the run that made it.
        weights_sha256: over the weights, in the order of their names.
        diameter: median diameter of the objects it was trained on, in pixels of the images that it takes; None if
            unknown or if it finds no objects.
        ground: what the training images lay on: `dark`, as fluorescence, `bright`, as stained tissue, or "" for neither
            or unknown; see `images.ground.ground_of`.
    """

    network: str
    arguments: Mapping[str, Any]
    classes: tuple[LabelClass, ...]
    normalisation: Normalisation
    pixel_size: PixelSize | None = None
    threshold: float = 0.5
    halo: int | None = None
    name: str = ""
    licence: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    diameter: float | None = None
    ground: str = ""

    @property
    def channels(self) -> int:
        """Number of channels of its images."""
        return len(self.normalisation.mean)

    def to_json(self) -> str:
        """Return the header as one JSON object."""
        values = {**asdict(self), "normalisation": self.normalisation.as_json()}
        values["classes"] = [one.as_json() for one in self.classes]
        unset = [name for name in _NEW if values[name] in (None, "")]
        for name in unset:  # earlier releases know none of them
            del values[name]
        is_newer = len(unset) < len(_NEW) or self.normalisation.percentiles is not None
        return json.dumps({"version": NEWER if is_newer else VERSION, **values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelHeader":
        """Parse the result of `to_json`.

        Raises:
            ModelError: no such object, another version, or values that are not allowed.
        """
        try:
            given = json.loads(text)
            version = given.pop("version")
            if version not in (VERSION, NEWER):
                raise ModelError(f"model format {version}; this release reads up to {NEWER}: update tilesegment")
            given["classes"] = tuple(LabelClass(**one) for one in given["classes"])
            scale = given["normalisation"]
            mean, std = (tuple(float(v) for v in scale[key]) for key in ("mean", "std"))
            percentiles = scale.get("percentiles") and tuple(float(v) for v in scale["percentiles"])
            given["normalisation"] = Normalisation(mean, std, str(scale["dtype"]), percentiles)
            given["pixel_size"] = PixelSize(**given["pixel_size"]) if given["pixel_size"] else None
            header = cls(**given)
            header.check()
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise ModelError(f"its header is not one of ours ({error!r:.200})") from error
        return header

    def check(self) -> None:
        """Raise ModelError if a value is not allowed; the message says which."""
        scale, size = self.normalisation, self.pixel_size
        texts = (self.network, self.name, self.licence, self.weights_sha256)
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.training, Mapping):
            raise ModelError("its network, name, licence and hash must be text, its training record an object")
        numbers = [*scale.mean, *scale.std, self.threshold]
        if len(scale.mean) != len(scale.std) or not all(math.isfinite(v) for v in numbers) or min(scale.std) <= 0:
            raise ModelError("its normalisation needs a finite mean and a positive std for every channel")
        ends = scale.percentiles
        if ends is not None and not (len(ends) == 2 and 0 <= ends[0] < ends[1] <= 100):
            raise ModelError(f"its percentiles are {ends}; allowed: two numbers from 0 to 100, the smaller first")
        if self.arguments.get("in_channels") != self.channels or self.arguments.get("classes") != len(self.classes):
            raise ModelError("its network, its classes and its normalisation contradict each other")
        if self.halo is not None and not (isinstance(self.halo, int) and 0 <= self.halo <= 65_536):
            raise ModelError(f"its halo is {self.halo!r}; allowed: 0 to 65536 pixels, or none")
        if not 0 < self.threshold < 1:
            raise ModelError(f"its threshold is {self.threshold}; allowed: between 0 and 1")
        if size is not None and not all(math.isfinite(side) and side > 0 for side in (size.y, size.x)):
            raise ModelError(f"its pixel size is {size.y} x {size.x}; allowed: positive, in micrometres")
        if self.ground not in ("", *GROUNDS):
            raise ModelError(f"its ground is {self.ground!r}; allowed: {', '.join(GROUNDS)}, or none")
        if self.diameter is not None and not (math.isfinite(self.diameter) and self.diameter > 0):
            raise ModelError(f"the diameter of its objects is {self.diameter}; allowed: positive, in pixels")
        for one in self.classes:
            if not isinstance(one.name, str) or re.fullmatch("#[0-9a-fA-F]{6}", one.colour) is None:
                raise ModelError(f"its class {one.name!r} needs a name and a colour of the form #rrggbb")
            if one.role not in ("", *ROLES):
                raise ModelError(f"the role of its class {one.name!r} is {one.role!r}; allowed: {', '.join(ROLES)}")
            if type(one.min_area) is not int or one.min_area < 0:
                raise ModelError(
                    f"the least area of its class {one.name!r} is {one.min_area!r}; allowed: 0 or more pixels"
                )


def read_header(path: Path) -> ModelHeader:
    """Read the header of the model file `path`, without its weights.

    Raises:
        ModelError: not a file, not one of ours, truncated, or a pickle (which is never opened).
    """
    try:
        return ModelHeader.from_json(_metadata(path)[KEY])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except KeyError:
        raise ModelError(f"{path}: a safetensors file without a tilesegment header; train or import a model") from None


def _metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file; opening it checks the whole file."""
    try:
        if path.is_fifo():  # opening it would block
            raise ModelError("a pipe; save the model to a file")
        with path.open("rb") as file:
            start = file.read(4)
        with safe_open(path, "numpy") as opened:
            return opened.metadata() or {}
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror}); name a model file or one of: tileseg models") from error
    except (SafetensorError, ValueError) as error:
        if start == b"PK\x03\x04" or re.match(b"\x80[\2-\5]", start):  # pickles of protocol 0 and 1 have no magic
            raise ModelError(
                "a pickled checkpoint, which could run code and is not opened; make a .safetensors model of its "
                "weights with tileseg import"
            ) from error
        raise ModelError(
            f"not a model, or a damaged one ({error}); expected a .safetensors file written by tileseg train"
        ) from error
