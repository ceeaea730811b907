"""Networks of every kind that there is, as small as can be, and plans to predict with them."""

import numpy as np
import pytest
from conftest import noise, toy_model, toy_network
from unreal_plans import image_of
from unreal_plans import plan_of as unreal_plan

from tilesegment.geometry import Block
from tilesegment.models.model import Model
from tilesegment.prediction.int8 import sample_blocks
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.tiling import Machine

NETWORKS = {
    "unet": toy_model(depth=2, base=8),
    "channels": toy_model(channels=3, classes=4),
    "same": toy_network("unet-same", depth=2, base=4),
    "bilinear": toy_network("unet-same", depth=2, base=4, up="bilinear"),
    "shuffle": toy_network("unet-same", depth=2, base=4, up="pixel-shuffle", down="stride-2", activation="leaky-relu"),
    "reduced": toy_network("unet", depth=1, base=4, reduction=2),
    "strided": toy_network("unet-strided", base=2),
    "unetpp": toy_network("unetpp", base=2),
    "fcn8": toy_network("fcn8", base=2, hidden=4),
    "u2net": toy_network("u2net-small").with_halo(64),
}
# the others take seconds to convert
of_every_network = pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, id=name, marks=[] if name == "unet" else pytest.mark.slow)
        for name, model in NETWORKS.items()
    ],
)


def plan_of(model: Model, shape: tuple[int, int], depth: int | None = None, step: int = 16) -> Plan:
    """For an image of `shape` (H, W), in tiles of which `step` pixels are kept."""
    image = image_of(shape, depth=depth, channels=model.header.channels)
    return unreal_plan(image, model, Machine("cpu", "int8"), tile=model.field_of_view.tile_of(step))


def samples_of(model: Model, seed: int = 0) -> list[tuple[np.ndarray, Block]]:
    """Random pixels for the sample blocks of an image of 90 x 70."""
    blocks = sample_blocks(plan_of(model, (90, 70)))
    return [(noise((1, *block.read.shape), seed + n), block) for n, (_, block) in enumerate(blocks)]
