"""Find and load the model for an image, with the chosen pruning and halo."""

import os
from dataclasses import replace
from functools import lru_cache

from tilesegment.errors import ModelError
from tilesegment.images.source import ImageSource
from tilesegment.models import DEFAULT, bundled_models, find_model
from tilesegment.models.model import Model, weights_hash
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.prediction.settings import Settings


def open_model(source: ImageSource, settings: Settings) -> tuple[Model, str, tuple[str, ...]]:
    """Return the model for an image, its path for other processes ("" if given as an object), and notes.

    Raises:
        ModelError: no model is found, or it does not fit the image, the pruning or the halo.
    """
    given, notes = settings.model, tuple[str, ...]()
    if given is None:
        channels = source.channels if settings.channels is None else len(settings.channels)
        if channels != 1:
            raise ModelError(
                f"{source.path} has {channels} channels and no model was named; {DEFAULT} takes 1: name a model for "
                "such images (tileseg models lists them, tileseg train makes one), or choose one channel with "
                "--channels"
            )
        given, notes = DEFAULT, (f"no model was named: using the bundled {DEFAULT}",)
    if isinstance(given, Model):
        if not isinstance(given.network, OnnxNetwork):  # they may have changed since they were loaded
            digest = weights_hash({name: value.cpu() for name, value in given.network.state_dict().items()})
            given = replace(given, header=replace(given.header, weights_sha256=digest))
        return _adapted(given, settings.prune, settings.halo), "", notes
    # the path of a bundled model differs between installations
    path = str(given) if str(given) in bundled_models() else os.path.abspath(find_model(str(given)))
    return load(path, settings), path, notes


def load(path: str, settings: Settings) -> Model:
    """Load a model file with the chosen pruning and halo; cached, as many images mostly share one model."""
    state = os.stat(path) if os.path.exists(path) else None
    return _loaded(path, state and (state.st_mtime_ns, state.st_size), settings.prune, settings.halo)


@lru_cache(maxsize=2)
def _loaded(path: str, state: tuple[int, int] | None, prune: int | None, halo: int | None) -> Model:
    return _adapted(Model.load(path), prune, halo)


def _adapted(model: Model, prune: int | None, halo: int | None) -> Model:
    model = model if prune is None else model.pruned(prune)
    return model if halo is None else model.with_halo(halo)
