"""What one page shows: the files named at the start, opened once."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tilesegment.errors import TilesegmentError, one_line
from tilesegment.images import open_image
from tilesegment.stores import Location
from tilesegment.viewer.annotations import Annotations
from tilesegment.viewer.difference_layer import DifferenceLayer
from tilesegment.viewer.drawn import Canvas
from tilesegment.viewer.image_layer import ImageLayer
from tilesegment.viewer.layer import JSON, Layer
from tilesegment.viewer.mask_layers import MaskLayer, open_mask_layer
from tilesegment.viewer.object_layer import holds_objects, open_object_layer
from tilesegment.viewer.places import Places

Named = str | Path | Location


@dataclass
class Scene:
    """An image and what lies on it; a context manager that closes its files.

    Attributes:
        image: the first layer.
        layers: all of them, the image first; on the wire a layer is its number.
        annotations: the file that is drawn in, if any.
        places: to step through, if any.
    """

    image: ImageLayer
    layers: list[Layer]
    annotations: Annotations | None = None
    places: Places | None = None
    _files: ExitStack = field(default_factory=ExitStack)

    def described(self) -> dict[str, JSON]:
        """Return what the page has to know at its start."""
        image = self.image
        height, width = image.shape
        described = [
            {
                "number": number,
                "name": one.name,
                "kind": one.kind,
                "shape": list(one.shape),
                "depth": one.depth,
                "placement": one.placement.as_json(),
                "changes": one.progress() is not None,
                **one.described(),
            }
            for number, one in enumerate(self.layers)
        ]
        return {
            "image": {"name": image.name, "height": height, "width": width, "depth": image.depth},
            "layers": described,
            "annotations": self.annotations is not None,
            "places": self.places is not None,
        }

    def values(self, y: int, x: int, z: int) -> list[dict[str, JSON]]:
        """Return what each layer holds at a pixel of the image; of one that cannot be read, why."""
        return [{"layer": number, "value": _value_of(one, y, x, z)} for number, one in enumerate(self.layers)]

    def has_plane(self, z: int) -> bool:
        """Whether the image has a plane `z`."""
        return 0 <= z < (self.image.depth or 1)

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_scene(
    image: Named,
    masks: Sequence[Named] = (),
    *,
    truth: Named | None = None,
    annotate: str | Path | None = None,
    places: str | Path | None = None,
    **reading: Any,
) -> Scene:
    """Open all that a page shows.

    Args:
        image: of any format that is read.
        masks: shown over it: masks, probabilities and label images, finished or in progress; files of objects.
        truth: what each mask is compared with.
        annotate: a GeoJSON file to draw in; it need not exist.
        places: a GeoJSON file of places to step through, as `tileseg suggest` writes it.
        reading: arguments of `open_image`, as axes and series.

    Raises:
        ImageError, MaskError, DataError, ViewError: a file cannot be read, or does not belong to the image.
    """
    with ExitStack() as files:
        shown = ImageLayer(open_image(image, **reading))
        files.callback(shown.close)
        layers: list[Layer] = [shown]
        for path in masks:
            open_layer = open_object_layer if holds_objects(path) else open_mask_layer
            layers.append(open_layer(path, shown.source))
            files.callback(layers[-1].close)
        if truth is not None:
            predicted = [one for one in layers if isinstance(one, MaskLayer)]
            true = open_mask_layer(truth, shown.source)
            files.callback(true.close)
            layers += [true, *(DifferenceLayer(true, one) for one in predicted)]
        annotations = None if annotate is None else Annotations(annotate, Canvas(shown.shape, shown.depth or 1))
        listed = None if places is None else Places.of(places, shown.shape)
        return Scene(shown, layers, annotations, listed, _files=files.pop_all())


def _value_of(layer: Layer, y: int, x: int, z: int) -> JSON:
    try:
        return layer.value(y, x, z)
    except TilesegmentError as error:  # a file may be damaged, or replaced by another, while it is looked at
        return {"text": one_line(error)}
