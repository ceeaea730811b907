"""What a plan needs to know of an image, a network and a machine."""

from dataclasses import dataclass

from tilesegment.geometry import FieldOfView


@dataclass(frozen=True)
class ImageFacts:
    """What a plan needs to know of an image, of the level that is predicted.

    Attributes:
        path, format: as opened.
        shape: (H, W).
        depth: planes, None without a z axis.
        channels: of the image.
        itemsize: bytes of a value.
        cache_bytes: memory that the source keeps decoded pixels in, at most.
        scale: (y, x) pixels of level 0 that one pixel of this level stands for.
    """

    path: str
    format: str
    shape: tuple[int, int]
    depth: int | None
    channels: int
    itemsize: int
    cache_bytes: int = 0
    scale: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class NetworkFacts:
    """What a plan needs to know of a network.

    Attributes:
        view: its field of view.
        channels: that it takes.
        classes: how many it tells apart.
        weights_bytes: size of its weights, as used.
        pixel_bytes: memory that a forward pass in fp32 takes for each input pixel of a tile.
        runtime: the only one that runs it; None for a network of PyTorch, which others can be handed.
    """

    view: FieldOfView
    channels: int
    classes: int
    weights_bytes: int
    pixel_bytes: int
    runtime: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a plan needs to know of the machine that predicts.

    Attributes:
        device, precision: where and how exactly.
        free_bytes: memory that a batch may take on the device; None for no more than a tile of the default size takes.
        openvino: whether it is there, and computes in that precision.
    """

    device: str
    precision: str
    free_bytes: int | None = None
    openvino: bool = False
