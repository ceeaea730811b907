"""The models that come with the package, by name: `NAME.safetensors` and its card `NAME.md` in this folder."""

import os
from pathlib import Path

from tilesegment.errors import ModelError

DEFAULT = "em-membrane"
TRAINED, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"  # in the folder of a training run
PACKAGED = ("rdf.yaml", "bioimageio.yaml")  # in the folder of a bioimage.io package


def bundled_models() -> dict[str, Path]:
    """Name and file of every model that comes with the package."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """The file of a model given by path, by the folder of the run that trained it, or by the name of a bundled one.

    The folder of a bioimage.io package is given back as it is.

    Raises:
        ModelError: neither a file nor a bundled name, or a folder without a model in it.
    """
    bundled = bundled_models()
    if str(model) in bundled:
        return bundled[str(model)]
    if os.path.isdir(model):
        return model_in(Path(model))
    if not os.path.isfile(model):  # unlike Path.is_file, False for a name that cannot be
        raise ModelError(f"no model {model}: neither a file nor a bundled model ({', '.join(bundled)})")
    return Path(model)


def model_in(folder: Path) -> Path:
    """The model in the folder of a training run, or the only one in any other.

    Raises:
        ModelError: there is none, or several.
    """
    if any(os.path.isfile(folder / name) for name in PACKAGED):
        return folder
    found = sorted(path for path in folder.glob("*.safetensors") if path.name != CHECKPOINT)
    if folder / TRAINED in found:
        return folder / TRAINED
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{folder} holds several models; name one of {', '.join(path.name for path in found)}")
    raise ModelError(
        f"no model {folder}: neither a file nor a bundled model, but a folder without {TRAINED}; name a model file, or "
        "the folder of a finished run"
    )
