"""The OpenVINO predictor: CPU, in fp32, bf16 and int8."""

import copy
import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.models.export import quiet
from tilesegment.models.model import Model, weights_hash
from tilesegment.prediction.predictor import BlockPredictor, Options

if TYPE_CHECKING:
    import openvino

# OpenVINO and NNCF send usage reports from their import on, unless this package is missing
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVinoPredictor(BlockPredictor):
    """Run the network with OpenVINO, converted for tiles of one shape.

    Tiles run one by one, whatever the batch: larger batches gain nothing on a CPU, and no result depends on them. Nor
    does one depend on the number of threads, which is PyTorch's.

    Args:
        model, options: the network with its header; see `Options`.
        tile: side of the tiles in pixels; the network is converted again for tiles of another shape.
        precision: fp32, or bf16 where the CPU has it; in a quantised network, of what is not in int8.
        quantised: the network in int8, see `int8.quantised`.

    Raises:
        ModelError: OpenVINO cannot convert the network.
    """

    def __init__(
        self,
        model: Model,
        tile: int,
        precision: str = "fp32",
        *,
        quantised: "openvino.Model | None" = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, torch.device("cpu"), torch.float32, {**options, "batch": 1})
        self._model, self._precision, self._quantised = model, precision, quantised
        self._compiled: dict[tuple[int, ...], openvino.CompiledModel] = {}
        self.compiled((1, model.header.channels, tile, tile))

    def _logits(self, tiles: Tensor) -> Tensor:
        compiled = self.compiled((1, *tiles.shape[1:]))
        each = (compiled(tile[None].numpy(), share_outputs=False)[0] for tile in tiles.contiguous())
        return torch.cat([torch.from_numpy(logits) for logits in each])

    def compiled(self, shape: tuple[int, ...]) -> "openvino.CompiledModel":
        """Return the network compiled for inputs of `shape` (1, C, H, W)."""
        if shape not in self._compiled:
            how = (self._precision, torch.get_num_threads())
            if self._quantised is None:
                network, name = self._model.network, self._model.header.name
                self._compiled[shape] = _converted(network, weights_hash(network.state_dict()), name, shape, *how)
            else:
                quantised = self._quantised.clone()
                quantised.reshape(shape)
                self._compiled[shape] = _compile(quantised, *how)
        return self._compiled[shape]


@lru_cache(maxsize=2)
def _converted(
    network: nn.Module, weights: str, name: str, shape: tuple[int, ...], precision: str, threads: int
) -> "openvino.CompiledModel":
    """Convert and compile once per network and `weights` (their hash), as many images mostly share one model."""
    return _compile(convert(network, name, shape), precision, threads)


def _compile(network: "openvino.Model", precision: str, threads: int) -> "openvino.CompiledModel":
    settings = {
        # OpenVINO's own default is bf16 wherever the CPU has it
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # several processes on one machine would be pinned to the same cores
        "ENABLE_CPU_PINNING": False,
    }
    return core().compile_model(network, "CPU", settings)


@cache
def core() -> "openvino.Core":
    """Return the one core of this process, which is never freed.

    OpenVINO gives the thread that makes its first core another stack for signal handlers, and frees that stack with the
    core: the next signal, such as that of Ctrl-C, would be a segmentation fault.
    """
    import openvino

    return openvino.Core()


def convert(network: nn.Module, name: str, shape: tuple[int, ...]) -> "openvino.Model":
    """Convert a network for inputs of `shape` (B, C, H, W), in fp32; its weights are copied.

    Raises:
        ModelError: OpenVINO cannot convert the network of the model `name`.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    network = copy.deepcopy(network).float().eval()
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(network, (torch.zeros(shape),))
            decoder = TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=False)
            frontend = FrontEndManager().load_by_framework("pytorch")
            return frontend.convert(frontend.load(decoder))
    except Exception as error:  # the exceptions of PyTorch and OpenVINO have no common base
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name}: OpenVINO cannot convert its network, choose --runtime pytorch: {reason}") from error
