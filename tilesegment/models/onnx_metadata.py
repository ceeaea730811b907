"""What an ONNX file of others says of its model, in strings that were put in beside the graph: `metadata_props`.

    props = {"tilesegment.classes": "membrane, inside", "tilesegment.mean": "128", "tilesegment.std": "60"}
    onnx.helper.set_model_props(model, props | {"tilesegment.dtype": "uint8"})

Mean and std are those of the training images, a number a channel, in grey values of their dtype. A graph that takes
grey values divided by 255 has a mean of 0 and a std of 255.
"""

from pathlib import Path

from tilesegment.errors import ModelError
from tilesegment.models.header import KEY, Normalisation
from tilesegment.models.onnx_file import OnnxFile
from tilesegment.models.package import Description

KEYS = CLASSES, MEAN, STD, DTYPE = tuple(f"{KEY}.{name}" for name in ("classes", "mean", "std", "dtype"))
_DTYPES = ("uint8", "uint16", "float32")


def describe_file(file: OnnxFile) -> Description:
    """What the file says of its model; what it does not say is empty.

    Raises:
        ModelError: it contradicts itself, or says what cannot be.
    """
    text = file.metadata.get(CLASSES)
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ModelError(f"its {CLASSES} are {text!r}; they must be different names with commas between them")
    return Description(name=Path(file.path).stem, names=names, normalisation=_normalisation(file))


def _normalisation(file: OnnxFile) -> Normalisation | None:
    given = {key: file.metadata[key] for key in (MEAN, STD, DTYPE) if key in file.metadata}
    if not given:
        return None
    if len(given) < 3:
        raise ModelError(f"gives {' and '.join(given)}; {MEAN}, {STD} and {DTYPE} are needed together")
    try:
        mean, std = (tuple(float(part) for part in given[key].split(",")) for key in (MEAN, STD))
    except ValueError as error:
        raise ModelError(f"its {MEAN} and {STD} are no numbers with commas between them ({error})") from error
    if len(mean) != file.channels or len(std) != file.channels:
        raise ModelError(
            f"has {len(mean)} {MEAN} and {len(std)} {STD}; it takes {file.channels} channels, one for each"
        )
    if given[DTYPE] not in _DTYPES:
        raise ModelError(f"its {DTYPE} is {given[DTYPE]!r}; allowed: {', '.join(_DTYPES)}")
    return Normalisation(mean, std, given[DTYPE])
