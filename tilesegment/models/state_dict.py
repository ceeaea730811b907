"""Weights in foreign files: tensors by name, read without running any code in the file."""

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from tilesegment.errors import ModelError

# grey values, or red, green and blue
ClassValues = tuple[int | tuple[int, int, int], ...]

# keys of the state dict in checkpoints of training programs
_WITHIN = ("state_dict", "model_state_dict", "model")
_ADVICE = "save it with torch.save(network.state_dict(), FILE), or as .safetensors"


@dataclass(frozen=True)
class StateDict:
    """The weights of a foreign network.

    Attributes:
        tensors: float32 by name, in the order of the file; without BatchNorm's counts of batches, which do not affect
            predictions, and without a prefix that all names share (`module.` of DataParallel).
        values: grey value, or red, green and blue, of each class in the masks; None if unknown.
        ordered: whether the order is that in which the network was built; safetensors sorts tensors.
        sha256: of the file.
    """

    tensors: Mapping[str, Tensor]
    values: ClassValues | None
    ordered: bool
    sha256: str


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict, or the one in a checkpoint, from a safetensors file or one that `torch.save` wrote.

    Raises:
        ModelError: it cannot be read, is neither, or holds more than plain data, which could run code.
    """
    try:
        with path.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            file.seek(0)
            is_safetensors = file.read(9)[8:] == b"{"  # 8 bytes of length, then JSON
            file.seek(0)
            content = safetensors.torch.load(file.read()) if is_safetensors else _unpickle(file)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); name a file of weights") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: a damaged safetensors file ({printable(error)}); copy it again") from error
    named, values = _innermost(content)
    found = {name: value for name, value in named.items() if isinstance(name, str) and isinstance(value, Tensor)}
    tensors = {name: value for name, value in found.items() if not name.endswith("num_batches_tracked")}
    if not tensors:
        raise ModelError(f"{path}: a {type(content).__name__} without weights by name, not a state dict; {_ADVICE}")
    for name, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.device.type != "cpu":
            raise ModelError(f"{path}: {printable(name)} is no plain tensor of floats ({value.dtype}); {_ADVICE}")
    # a small file can claim a tensor of any size by repeating one number
    if sum(value.numel() * value.element_size() for value in tensors.values()) > size:
        raise ModelError(f"{path}: its tensors claim more numbers than it holds; {_ADVICE}")
    prefix = _shared_prefix(tensors)
    plain = {name.removeprefix(prefix): value.detach().float() for name, value in tensors.items()}
    return StateDict(plain, values, not is_safetensors, digest)


def _unpickle(file: BinaryIO) -> Any:
    """Load what `torch.save` wrote if it holds only tensors and plain values; nothing else is ever called."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged or hostile bytes raise anything
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = "not what torch.save writes of a state dict, or damaged"
        if foreign is not None:
            what = f"it holds {printable(foreign[1])}, which may run code"
        raise ModelError(f"{what}; nothing in it was run: {_ADVICE}") from error


def _innermost(content: object) -> tuple[Mapping[Any, Any], ClassValues | None]:
    """The state dict in a checkpoint, and the values of the classes, in it or beside it."""
    named = content if isinstance(content, Mapping) else {}
    values = _class_values(named.get("mask_values"))
    for key in _WITHIN:
        if isinstance(named.get(key), Mapping):
            named = named[key]
            values = values or _class_values(named.get("mask_values"))
    return named, values


def _shared_prefix(names: Mapping[str, Tensor]) -> str:
    """The prefix that all names share, such as `module.` or `model.net.`."""
    shared = ""
    for level in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(level)) > 1:
            break
        shared += f"{level[0]}."
    return shared


def _class_values(given: object) -> ClassValues | None:
    """`mask_values` as the public U-Net's training writes them: sorted grey values, or colours; else None."""
    if not isinstance(given, list) or not given:
        return None
    if all(type(value) is int for value in given):
        return tuple(given)
    if all(isinstance(v, list) and len(v) == 3 and all(type(n) is int and 0 <= n <= 255 for n in v) for v in given):
        return tuple((red, green, blue) for red, green, blue in given)
    return None


def printable(text: object) -> str:
    """Return the first line of text from a foreign file, short and without control characters."""
    first = (str(text).splitlines() or [""])[0][:120]
    return "".join(letter if letter.isprintable() else "?" for letter in first)
