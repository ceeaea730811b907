"""`export`: a model as a file for other programs."""

import os
from collections.abc import Callable
from pathlib import Path

from tilesegment.errors import ModelError
from tilesegment.files import write_atomically
from tilesegment.models.model import Model
from tilesegment.models.onnx_export import to_onnx
from tilesegment.models.onnx_model import OnnxModel, load_model
from tilesegment.models.package_export import to_package

_FORMATS: dict[str, tuple[str, Callable[[Model], bytes]]] = {
    "onnx": (".onnx", to_onnx),
    "bioimageio": (".zip", to_package),
}
FORMATS = tuple(_FORMATS)


def export(model: str | Path, out: str | Path, to: str, *, overwrite: bool = False) -> Path:
    """Writes a model for other programs; read back, it needs nothing more.

    Args:
        model: file or bundled name.
        out: the new file, `.onnx` or `.zip`.
        to: `onnx`, a graph from grey values to class probabilities; `bioimageio`, a package with the same graph.
        overwrite: replace an existing `out`.

    Returns:
        `out`.

    Raises:
        ModelError: no such format, `out` exists or cannot be written, the model cannot be loaded or exported.
    """
    if to not in _FORMATS:
        raise ModelError(f"no format is called {to!r}; there are: {', '.join(_FORMATS)}")
    (suffix, convert), out = _FORMATS[to], Path(out)
    if out.suffix.lower() != suffix:
        raise ModelError(f"{out}: {to} is written to a file that ends with {suffix}")
    if os.path.exists(out) and not overwrite:
        raise ModelError(f"{out} exists; name another output, or use --overwrite to replace it")
    if not out.parent.is_dir():
        raise ModelError(f"{out}: {out.parent} is no folder; make it, or choose another place")
    loaded = load_model(model)
    if isinstance(loaded, OnnxModel):
        raise ModelError(f"{model} is an ONNX model already; models of tileseg train are exported")
    content = convert(loaded)
    try:
        write_atomically(out, content)
    except OSError as error:
        raise ModelError(f"{out} cannot be written ({error.strerror}); choose another place") from error
    return out
