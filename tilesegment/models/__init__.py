"""The models that come with the package, by name: `NAME.safetensors` and its card `NAME.md` in this folder."""

import os
from pathlib import Path

from tilesegment.errors import ModelError

DEFAULT = "em-membrane"


def bundled_models() -> dict[str, Path]:
    """Name and file of every model that comes with the package."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.safetensors"))}


def find_model(model: str | Path) -> Path:
    """The file of a model given by path or by the name of a bundled one.

    Raises:
        ModelError: neither a file nor a bundled name.
    """
    bundled = bundled_models()
    if str(model) in bundled:
        return bundled[str(model)]
    if not os.path.isfile(model):  # unlike Path.is_file, False for a name that cannot be
        raise ModelError(f"no model {model}: neither a file nor a bundled model ({', '.join(bundled)})")
    return Path(model)
