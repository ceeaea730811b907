"""How a mask and its image are shown by another program: napari, neuroglancer, QuPath.

What is made is text to read, to copy and to run. Names of files may hold anything: each language quotes them its way.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tilesegment.errors import ViewError
from tilesegment.masks import Mask, open_mask
from tilesegment.masks.blocks import BlockArray
from tilesegment.metadata import LabelClass, in_micrometres
from tilesegment.ome_zarr.multiscale import read_multiscale
from tilesegment.ome_zarr.node import read_node
from tilesegment.stores import Location, Place, place_of

PROGRAMS = ("napari", "neuroglancer", "qupath")
NEUROGLANCER = "https://neuroglancer-demo.appspot.com"
_PYRAMIDS = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".btf")
_MASK, _IMAGE = "mask", "image"  # names below the address of a server of files


@dataclass(frozen=True)
class Transform:
    """Where pixels lie in the world, whose origin is the centre of the image's first pixel; (y, x) or (z, y, x).

    Attributes:
        unit: `micrometre`, or `pixel` of level 0 where the pixel size is unknown.
        pixel: of the image.
        scale: of the mask.
        translate: of the centre of the mask's first pixel.
    """

    unit: str
    pixel: tuple[float, ...]
    scale: tuple[float, ...]
    translate: tuple[float, ...]

    @classmethod
    def of(cls, mask: Mask) -> "Transform":
        """Take it from what the mask says of itself."""
        spec, size = mask.spec, mask.spec.pixel_size
        per: tuple[float, ...] = (1.0, 1.0) if size is None else (size.y / spec.scale[0], size.x / spec.scale[1])
        scale = tuple(p * s for p, s in zip(per, spec.scale, strict=True))
        translate = tuple(s * o for s, o in zip(scale, spec.offset, strict=True))
        if spec.depth is not None:
            planes = in_micrometres(spec.frame).z
            apart = planes.scale if size is not None and planes.unit is not None else 1.0
            along = (apart, *per), (apart, *scale), (apart * spec.first_plane, *translate)
        else:
            along = per, scale, translate
        return cls("pixel" if size is None else "micrometre", *along)


@dataclass(frozen=True)
class Opened:
    """A mask to be shown elsewhere, and its image.

    Attributes:
        mask: complete.
        image: where its image is; None if it is not where the mask says.
    """

    mask: Mask
    image: Place | None


def open_for(mask: str | Path | Location, image: str | Path | Location | None = None) -> Opened:
    """Open a mask, and find its image; `image` says where it is now.

    Raises:
        MaskError: it cannot be read, or is no mask.
        ViewError: there is no such image.
    """
    opened = open_mask(mask)
    if image is not None:
        place = place_of(image)
        if isinstance(place, Path) and not place.exists():
            raise ViewError(f"there is no image {place}: check the path")
        return Opened(opened, place.absolute() if isinstance(place, Path) else place)
    recorded = opened.spec.provenance.get("image")
    if not isinstance(recorded, str):
        return Opened(opened, None)
    place = place_of(recorded, opened.path.options if isinstance(opened.path, Location) else ())
    return Opened(opened, None if isinstance(place, Path) and not place.exists() else place)


def napari_script(opened: Opened) -> str:
    """Return a Python program that lays a mask over its image in napari, in the right place.

    napari's own reader of OME-Zarr ignores where an image begins, so the numbers are in the program.
    """
    mask, where = opened.mask, Transform.of(opened.mask)
    classes, needs = mask.spec.classes, ["napari"]
    read_mask, more = _levels_of_mask(mask)
    read_image, others = _levels_of_image(opened.image)
    imports = sorted({*more, *others})
    needs += [name.partition(".")[0] for name in imports]
    axes = f"{'z, ' * (len(where.pixel) - 2)}y, x"
    lines = [
        f"# Lays a mask over its image in napari. Needs: pip install {' '.join(dict.fromkeys(needs))}",
        *(f"import {name}" for name in imports),
        "",
        f"MASK = {str(mask.path)!r}",
        f"IMAGE = {None if opened.image is None else str(opened.image)!r}",
        f"PIXEL = {where.pixel!r}  # {where.unit}s that a pixel of the image spans: {axes}",
        f"SCALE = {where.scale!r}  # the same of the mask",
        f"TRANSLATE = {where.translate!r}  # where the centre of its first pixel lies",
        f"CLASSES = {[one.name for one in classes]!r}",
        f"COLOURS = {_colours(classes)!r}",
        "",
        read_image,
        read_mask,
        *_SHOWN,
    ]
    return "\n".join(lines) + "\n"


_SHOWN = """
import napari
from napari.utils import DirectLabelColormap

viewer = napari.Viewer()
if isinstance(image, list):
    rgb = len(image[0].shape) > 2 and image[0].shape[-1] in (3, 4)
    axes = len(image[0].shape) - rgb
    levels = image if len(image) > 1 else image[0]
    viewer.add_image(levels, name="image", rgb=rgb, scale=((1,) * axes + PIXEL)[-axes:])
elif IMAGE is not None:
    for layer in viewer.open(IMAGE):
        layer.scale = ((1,) * layer.ndim + PIXEL)[-layer.ndim :]
        layer.translate = (0,) * layer.ndim
viewer.add_labels(
    mask if len(mask) > 1 else mask[0],
    name="mask",
    scale=SCALE,
    translate=TRANSLATE,
    colormap=DirectLabelColormap(color_dict=COLOURS),
    features={"index": list(range(len(CLASSES))), "class": CLASSES},
)
napari.run()
""".splitlines()


def _colours(classes: tuple[LabelClass, ...]) -> dict[int | None, str]:
    """Return the colours of ids; the first class, the background, and what has no class are not drawn."""
    return {None: "transparent", 0: "transparent"} | {n: one.colour for n, one in enumerate(classes) if n}


def _levels_of_mask(mask: Mask) -> tuple[str, list[str]]:
    """Return the line that reads a mask as a list of arrays, the finest first, and what it imports."""
    if isinstance(mask.levels[0], BlockArray):
        paths = [str(one.path)[len(str(mask.path)) :].strip("/") for one in mask.levels]
        return _zarr_line("mask", "MASK", mask.path, paths)
    if mask.format == "TIFF":
        return _tiff_lines("mask", "MASK"), ["tifffile", "zarr"]
    return "mask = [numpy.asarray(PIL.Image.open(MASK))]", ["PIL.Image", "numpy"]


def _levels_of_image(image: Place | None) -> tuple[str, list[str]]:
    """Return the line that reads an image, as `_levels_of_mask` does; None leaves it to napari."""
    if image is None:
        return "image = None  # not found; name it with --image", []
    node = read_node(image, ViewError) if isinstance(image, Location) or image.is_dir() else None
    if node is not None:
        found = read_multiscale(str(image), node)
        return _zarr_line("image", "IMAGE", image, [""] if found is None else list(found.paths))
    if isinstance(image, Path) and image.suffix.lower() in _PYRAMIDS:
        return _tiff_lines("image", "IMAGE"), ["tifffile", "zarr"]
    return "image = None  # napari reads it", []


def _zarr_line(name: str, constant: str, place: Place, paths: list[str]) -> tuple[str, list[str]]:
    if isinstance(place, Path):
        return f'{name} = [zarr.open_array({constant}, path=path, mode="r") for path in {paths!r}]', ["zarr"]
    options = dict(place.options)
    given: dict[str, Any] = {}
    given |= {"endpoint": options["endpoint"]} if "endpoint" in options else {}
    given |= {"region": options["region"]} if "region" in options else {}
    given |= {"skip_signature": True} if options.get("anonymous") == "true" else {}
    if options.get("endpoint", str(place)).startswith("http://"):
        given["client_options"] = {"allow_http": True}
    more = "".join(f", {key}={value!r}" for key, value in given.items())
    store = f"zarr.storage.ObjectStore(obstore.store.from_url({constant}{more}), read_only=True)"
    return (
        f'{name} = [zarr.open_array({store}, path=path, mode="r") for path in {paths!r}]',
        ["obstore.store", "zarr", "zarr.storage"],
    )


def _tiff_lines(name: str, constant: str) -> str:
    series = f"{name}_file.series[0]"
    return (
        f"{name}_file = tifffile.TiffFile({constant})\n"
        f'{name} = [zarr.open_array({series}.aszarr(level=n), mode="r") for n in range(len({series}.levels))]'
    )


def neuroglancer_state(opened: Opened, base: str | None = None) -> dict[str, Any]:
    """Return the state of neuroglancer that shows a mask over its image.

    Args:
        opened: what is shown; an image that is no Zarr is left out, as neuroglancer cannot read it.
        base: address of a server of the files of this machine, see `files_of`; None if all are on servers.

    Raises:
        ViewError: the mask is no Zarr.
    """
    mask, layers = opened.mask, list[dict[str, Any]]()
    if not isinstance(mask.levels[0], BlockArray):
        raise ViewError(f"neuroglancer reads OME-Zarr, and {mask.path} is {mask.format}: predict into a .zarr")
    if opened.image is not None and _is_zarr(opened.image):
        layers.append({"type": "image", "source": _source(opened.image, base, _IMAGE), "name": opened.image.name})
    classes = mask.spec.classes
    layers.append(
        {
            "type": "segmentation",
            "source": _source(mask.path, base, _MASK),
            "name": mask.path.name,
            "segments": [str(n) for n in range(1, len(classes))],
            "segmentColors": {str(n): one.colour for n, one in enumerate(classes) if n},
        }
    )
    return {"layers": layers, "layout": "xy", "showSlices": False}


def files_of(opened: Opened) -> Mapping[str, Path]:
    """Return the folders of this machine that neuroglancer asks for, by their names below a server's address."""
    places = {_MASK: opened.mask.path, _IMAGE: opened.image}
    return {name: place for name, place in places.items() if isinstance(place, Path) and _is_zarr(place)}


def neuroglancer_url(state: Mapping[str, Any], site: str = NEUROGLANCER) -> str:
    """Return the address of neuroglancer that shows a state."""
    return f"{site}/#!{quote(json.dumps(state, separators=(',', ':')), safe='')}"


def _is_zarr(place: Place) -> bool:
    return read_node(place, ViewError) is not None if isinstance(place, Location) or place.is_dir() else False


def _source(place: Place, base: str | None, name: str) -> str:
    if isinstance(place, Path):
        assert base is not None
        return f"zarr://{base}{name}/"
    options = dict(place.options)
    if place.scheme == "az":
        host = f"{options.get('account', 'ACCOUNT')}.blob.core.windows.net"
        return f"zarr://https://{host}/{place.root}/{quote(place.key)}"
    if place.scheme == "s3" and "endpoint" in options:
        return f"zarr://{options['endpoint'].rstrip('/')}/{place.root}/{quote(place.key)}"
    return f"zarr://{place}"


def qupath_steps(opened: Opened) -> str:
    """Return what to do to see a mask, as objects, in QuPath."""
    mask = opened.mask.path
    stem = mask.name.removesuffix(mask.suffix) or mask.name
    file = (Path.cwd() if isinstance(mask, Location) else mask.parent) / f"{stem}.geojson"
    image = "its image" if opened.image is None else str(opened.image)
    return "\n".join(
        (
            "1. Outlines of the objects; --regions for whole areas, such as tumour:",
            f"   tileseg objects {shlex.quote(str(mask))} --out {shlex.quote(str(file))}",
            f"2. Open {image} in QuPath.",
            "3. Drag the .geojson onto it (or File, Import objects from file), or in the script editor:",
            f"   importObjectsFromFile({groovy(str(file))})",
            "",
        )
    )


def groovy(text: str) -> str:
    """Quote a text as Groovy does; in single quotes nothing is replaced."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
