"""Find and load the model for an image, with the chosen pruning and halo."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from tilesegment.errors import ModelError, PlanError
from tilesegment.images.ground import ground_of, is_grey, look_at
from tilesegment.images.source import ImageSource
from tilesegment.metadata import BRIGHT, DARK
from tilesegment.models import DEFAULT, bundled_models, find_model
from tilesegment.models.header import ModelHeader, read_header
from tilesegment.models.model import Model, weights_hash
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.prediction.settings import Settings

_FLUORESCENCE, _STAINED = "nuclei-fluo", "nuclei-he"


@dataclass(frozen=True)
class Opened:
    """A model for an image.

    Attributes:
        model: with the chosen pruning and halo.
        path: for other processes; "" if the model was given as an object.
        chosen: the kind of image that it was chosen for, where none was named.
        notes: for the user.
    """

    model: Model
    path: str
    chosen: str = ""
    notes: tuple[str, ...] = ()


def open_model(source: ImageSource, settings: Settings) -> Opened:
    """Open the model that was named, or the bundled one for such images.

    Raises:
        ModelError: no model is found, or it does not fit the image, the pruning or the halo.
        PlanError: it takes other images than this one, and a bundled model takes these.
        ImageError: the image cannot be read to see of which kind it is.
    """
    given, known = settings.model, bundled_models()
    if given is None:
        name, kind = choose(source, settings, known)
        why = f", as {source.path} is {kind}" if kind else ""
        others = [f"--model {one}" for one in known if one != name] if kind else []
        more = f"; others: {', '.join(others)}" if others else ""
        note = f"no model was named: using the bundled {name}{why}{more}"
        return Opened(load(name, settings), name, kind, (note,))
    if isinstance(given, Model):
        if not isinstance(given.network, OnnxNetwork):  # they may have changed since they were loaded
            digest = weights_hash({name: value.cpu() for name, value in given.network.state_dict().items()})
            given = replace(given, header=replace(given.header, weights_sha256=digest))
        model, path = _adapted(given, settings.prune, settings.halo), ""
    else:
        # the path of a bundled model differs between installations
        path = str(given) if str(given) in known else os.path.abspath(find_model(str(given)))
        model = load(path, settings)
    return Opened(model, path, notes=check_kind(source, settings, model.header, known))


@dataclass(frozen=True)
class _Kind:
    """What an image is, as far as a look tells: so many channels, alike or not, of a type, on a ground."""

    channels: int
    has_alpha: bool
    is_grey: bool
    dtype: str
    ground: str
    brightest: int  # of its channels

    @classmethod
    def of(cls, source: ImageSource, settings: Settings) -> "_Kind":
        chosen = range(source.channels) if settings.channels is None else settings.channels
        has_alpha = settings.channels is None and source.channels == 4
        used = [channel for channel in chosen if 0 <= channel < source.channels][: 3 if has_alpha else None]
        pixels = look_at(source, used)
        sums = np.where(np.isfinite(pixels), pixels, 0).sum((1, 2), dtype=np.float64)
        brightest = used[int(sums.argmax())] if used else 0
        ground = ground_of(pixels) if used else ""
        return cls(len(chosen), has_alpha, is_grey(pixels), str(source.dtype), ground, brightest)

    @property
    def words(self) -> str:
        """Describe it."""
        if self.channels == 1:
            return f"one channel {'' if self.ground == DARK else 'that is not '}on dark ground"
        alike = " that are alike" if self.is_grey else f" of {self.dtype}" if self.dtype != "uint8" else ""
        where = f"on {self.ground} ground" if self.ground else "on neither dark nor bright ground"
        return f"{self.channels} channels{alike} {where}"

    def model(self, known: Mapping[str, Path]) -> str | None:
        """Return the bundled model for such images."""
        if self.channels == 1:
            fitting = _FLUORESCENCE if self.ground == DARK and _FLUORESCENCE in known else DEFAULT
        elif (self.channels == 3 or self.has_alpha) and self.dtype == "uint8" and self.ground == BRIGHT:
            fitting = _STAINED
        else:
            return None
        return fitting if fitting in known else None

    def advice(self, known: Mapping[str, Path]) -> str:
        """Return the options for such images; "" if no bundled model is for them."""
        name = self.model(known)
        if name is None and self.channels > 1 and (self.is_grey or self.ground == DARK):
            name = replace(self, channels=1).model(known)
            return f"--model {name} --channels {self.brightest}" if name else ""
        return f"--model {name}" if name else ""


def choose(source: ImageSource, settings: Settings, known: Mapping[str, Path]) -> tuple[str, str]:
    """Choose the bundled model for an image by a look at it, the same whatever part is predicted.

    Args:
        source, settings: the image, and its chosen channels.
        known: the bundled models, as `bundled_models` returns them.

    Returns:
        Its name, and the kind of image that it was chosen for; "" where there was nothing to choose from.

    Raises:
        ModelError: none is for such images; the message says what to do.
    """
    count = source.channels if settings.channels is None else len(settings.channels)
    if count == 1 and _FLUORESCENCE not in known:
        return DEFAULT, ""
    kind = _Kind.of(source, settings)
    name = kind.model(known)
    if name == DEFAULT and kind.dtype != "uint8" and settings.normalise == "model":
        raise ModelError(
            f"{source.path} is {kind.words}, of {kind.dtype}, and no model was named: give --model {_FLUORESCENCE} if "
            f"it is fluorescence (an empty field may look so), or --normalise image to use {DEFAULT}, which takes uint8"
        )
    if name is not None:
        return name, kind.words
    takes = ", ".join(f"{one} takes {read_header(path).channels}" for one, path in known.items())
    advice = kind.advice(known) or "a model for such images (tileseg models lists them, tileseg train makes one)"
    raise ModelError(
        f"{source.path} has {count} channels and no model was named; {takes}, and it is {kind.words}: give {advice}, "
        "or choose channels with --channels"
    )


def check_kind(
    source: ImageSource, settings: Settings, header: ModelHeader, known: Mapping[str, Path]
) -> tuple[str, ...]:
    """Return a note if an image lies on another ground than the training images of a model.

    Raises:
        PlanError: the model takes another number of channels, and a bundled one or a channel is for such images.
    """
    count, wanted = source.channels if settings.channels is None else len(settings.channels), header.channels
    fits = count == wanted or (settings.channels is None and (count, wanted) == (4, 3))
    if fits and not header.ground:
        return ()
    kind = _Kind.of(source, settings)
    if fits and kind.ground == header.ground:
        return ()
    if fits:
        advice, where = kind.advice(known), f"was trained on images on {header.ground} ground"
        right = f"try {advice}" if advice else "name a model for such images"
        return (f"{source.path} is {kind.words}, and the model {where}: {right}",)
    name = kind.model(known)
    right = "" if name is None else f"--model {name}"
    if not right and wanted == 1 and header.ground and kind.ground == header.ground:
        right = f"--channels {kind.brightest}"
    if not right:  # the plan explains what does not fit
        return ()
    has = f"{count} channel{'' if count == 1 else 's'}"
    other = f", or choose {wanted} of 0 to {source.channels - 1} with --channels" if source.channels > wanted else ""
    raise PlanError(f"{source.path} has {has}, the model takes {wanted}: it is {kind.words}, so give {right}{other}")


def load(path: str, settings: Settings) -> Model:
    """Load a model file with the chosen pruning and halo; cached, as many images mostly share one model."""
    state = os.stat(path) if os.path.exists(path) else None
    return _loaded(path, state and (state.st_mtime_ns, state.st_size), settings.prune, settings.halo)


@lru_cache(maxsize=3)
def _loaded(path: str, state: tuple[int, int] | None, prune: int | None, halo: int | None) -> Model:
    return _adapted(Model.load(path), prune, halo)


def _adapted(model: Model, prune: int | None, halo: int | None) -> Model:
    model = model if prune is None else model.pruned(prune)
    return model if halo is None else model.with_halo(halo)
