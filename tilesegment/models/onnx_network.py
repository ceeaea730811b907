"""A network that onnxruntime runs, as a PyTorch module like any other network."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tilesegment.errors import DeviceError, ModelError
from tilesegment.models.header import Normalisation
from tilesegment.models.onnx_file import OnnxFile
from tilesegment.networks.any_network import as_logits
from tilesegment.networks.network import Network
from tilesegment.threads import thread_count

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_CUDA = "CUDAExecutionProvider"
_TINY = float(np.finfo(np.float32).tiny)
CUDA_REMEDY = ", or, for CUDA, pip install onnxruntime-gpu instead of onnxruntime"


class OnnxNetwork(Network):
    """The graph of an ONNX file, in its own precision, on the CPU or a CUDA device.

    Args:
        file: a checked file.

    Attributes:
        feeds: the normalisation that the graph itself applies to grey values; `forward` undoes it first. None: the
            graph takes normalised values.
        activation: what the graph gives, `logits` or `probabilities`.
        pixel_values: upper estimate of the values held at once for each input pixel.

    Shapes: (B, C, H, W) float32, normalised -> logits (B, K, h, w), K at least 2.
    """

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.file, self.feeds, self.activation, self.pixel_values = file, None, "logits", 0
        self._session = open_session(file, torch.device("cpu"))
        # stands for the weights, which would tell device and precision
        self.register_buffer("place", torch.zeros(()), persistent=False)

    feeds: Normalisation | None
    activation: str

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxNetwork":
        """A copy that shares the session until it is moved."""
        copy = OnnxNetwork.__new__(OnnxNetwork)
        copy.__dict__ = {**self.__dict__, "_buffers": dict(self._buffers)}
        return copy

    @property
    def values_per_pixel(self) -> int:
        """`pixel_values`."""
        return self.pixel_values

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "OnnxNetwork":
        """Move the network, which means opening the file again on the device.

        Raises:
            DeviceError: another precision than the file's, or onnxruntime does not run there.
        """
        before = self.get_buffer("place").device
        super()._apply(fn, recurse)
        place = self.get_buffer("place")
        if place.dtype != torch.float32:
            raise DeviceError(
                f"an ONNX model computes in its own precision, not in {str(place.dtype)[6:]}; give --precision fp32"
            )
        if place.device != before:
            self._session = open_session(self.file, place.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) of normalised images (B, C, H, W)."""
        values = x.cpu().numpy()
        if self.feeds is not None:
            mean, std = (np.array(v)[:, None, None] for v in (self.feeds.mean, self.feeds.std))
            # in double precision: with a large mean, single precision loses digits
            values = values * std + mean
        try:
            result = self.run(values)
        except ModelError as error:
            raise ModelError(f"{self.file.path}: {error}") from error
        if self.activation == "logits":
            return as_logits(torch.from_numpy(result), "logits").to(x.device)
        # as `as_logits`, but NumPy's logarithm rounds differently from PyTorch's, and masks must not change
        result = np.concatenate([1 - result, result], 1) if result.shape[1] == 1 else result
        return torch.from_numpy(np.log(np.maximum(result, _TINY))).to(x.device)

    def run(self, values: np.ndarray) -> np.ndarray:
        """Run the graph: (B, C, H, W) as it takes them -> (B, K, h, w) float32.

        Raises:
            ModelError: it fails, or returns something else; without the file's name.
        """
        dtype = np.dtype(self.file.dtype)
        if dtype.kind == "u":
            values = np.nan_to_num(np.clip(np.rint(values), 0, np.iinfo(dtype).max))
        values = np.ascontiguousarray(values.astype(dtype))
        batches = np.split(values, len(values)) if self.file.one_by_one else [values]
        first = self._session.get_outputs()[0].name
        try:
            results = [self._session.run([first], {self.file.name: batch}, _quiet_run())[0] for batch in batches]
        except Exception as error:  # those of onnxruntime have no other root
            sides = " x ".join(map(str, values.shape[-2:]))
            raise ModelError(f"fails on {sides} px: {one_line(error)}") from error
        for batch, result in zip(batches, results, strict=True):
            if result.ndim != 4 or len(result) != len(batch) or not 1 <= result.shape[1] <= 256:
                raise ModelError(
                    f"gives {' x '.join(map(str, result.shape)) or 'a number'}; it must give probabilities or logits "
                    "(batch, 1 to 256 classes, height, width)"
                )
        return np.concatenate(results).astype(np.float32, copy=False)


def open_session(file: OnnxFile, device: torch.device) -> "InferenceSession":
    """Open the file with onnxruntime on `device`.

    Raises:
        ModelError: onnxruntime cannot run the file.
        DeviceError: onnxruntime does not run on `device`.
    """
    import onnxruntime

    providers: list[Any] = ["CPUExecutionProvider"]
    if not runs_on(device):
        raise DeviceError(
            f"the onnxruntime here does not run ONNX models on {device.type}; give --device cpu{CUDA_REMEDY}"
        )
    if device.type == "cuda":
        providers.insert(0, (_CUDA, {"device_id": device.index or 0}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = thread_count()
    try:
        return onnxruntime.InferenceSession(file.source, options, providers=providers)
    except Exception as error:  # those of onnxruntime have no other root
        raise ModelError(f"{file.path}: onnxruntime cannot run it: {one_line(error)}") from error


def runs_on(device: torch.device) -> bool:
    """Whether the installed onnxruntime runs models on `device`."""
    import onnxruntime

    return device.type == "cpu" or (device.type == "cuda" and _CUDA in onnxruntime.get_available_providers())


def one_line(error: Exception) -> str:
    """Return the message of onnxruntime without its prefix, on one line."""
    text = " ".join(str(error).split())
    return text.removeprefix("[ONNXRuntimeError] : ")[:300]


def _quiet_run() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options
