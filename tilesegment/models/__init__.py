"""Models. Each bundled one is a file `NAME.safetensors` in this folder, with its card `NAME.md`."""

import os
from pathlib import Path

from tilesegment.errors import ModelError

DEFAULT = "em-membrane"
TRAINED, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"  # in the folder of a training run
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")  # suffixes of models and of weights to import
PACKAGED = ("rdf.yaml", "bioimageio.yaml")  # in the folder of a bioimage.io package


def bundled_models() -> dict[str, Path]:
    """Return the name and file of every bundled model."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """Find the file of a model by its path, a bundled name, or a folder with one model, such as a training run's.

    The folder of a bioimage.io package is returned unchanged.

    Raises:
        ModelError: there is none, or the folder holds several.
    """
    bundled, folder = bundled_models(), Path(model)
    if str(model) in bundled:
        return bundled[str(model)]
    if os.path.isfile(model) or any(os.path.isfile(folder / name) for name in PACKAGED):
        return folder
    found = [folder / TRAINED] if os.path.isfile(folder / TRAINED) else []
    if not found and os.path.isdir(folder):
        found = sorted(path for path in folder.glob("*.safetensors") if path.name != CHECKPOINT)
    if len(found) > 1:
        raise ModelError(f"{model} holds several models; name one of {', '.join(path.name for path in found)}")
    if not found:
        raise ModelError(
            f"no model {model}: neither a file nor a bundled model ({', '.join(bundled)}) nor the folder of a finished "
            "training run"
        )
    return found[0]
