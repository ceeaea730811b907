"""The OpenVINO predictor: the CPU, where it is faster than PyTorch, and the only one that computes in int8."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from tilesegment.errors import ModelError
from tilesegment.model import Model
from tilesegment.predictors.block import BlockPredictor, Options

if TYPE_CHECKING:
    import openvino

# what the convolutions that are not in int8 compute in; OpenVINO's own default is bf16 wherever the CPU has it
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoPredictor(BlockPredictor):
    """Runs the network, converted for tiles of one shape.

    Tiles are run one after another: on a CPU larger batches bring nothing, and so no result depends on them. Nor does
    one depend on the number of threads, which is that of PyTorch.

    Args:
        model: the network and its header.
        tile: side of the tiles, pixels; for tiles of another shape it is converted when they come.
        precision: fp32, bf16 or int8.
        quantised: for int8: the network, converted for free shapes and quantised, see `quantisation`.
        options: see `Options`.

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
        import openvino

        assert (quantised is not None) == (precision == "int8")
        runtime = f"OpenVINO {openvino.get_version().split('-')[0]}"
        super().__init__(model, torch.device("cpu"), runtime, torch.float32, options)
        self._model, self._quantised, self._precision = model, quantised, precision
        self._compiled: dict[tuple[int, ...], openvino.CompiledModel] = {}
        self._for_shape((1, model.header.channels, tile, tile))

    def _logits(self, tiles: Tensor) -> Tensor:
        compiled = self._for_shape((1, *tiles.shape[1:]))
        each = (compiled(tile[None].numpy(), share_outputs=False)[0] for tile in tiles.contiguous())
        return torch.cat([torch.from_numpy(logits) for logits in each])

    def _for_shape(self, shape: tuple[int, ...]) -> "openvino.CompiledModel":
        if shape not in self._compiled:
            import openvino

            if self._quantised is None:
                network = convert(self._model, shape)
            else:
                network = self._quantised.clone()
                network.reshape(shape)
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # several processes on one machine would be pinned to the same cores
                "ENABLE_CPU_PINNING": False,
            }
            self._compiled[shape] = openvino.compile_model(network, "CPU", settings)
        return self._compiled[shape]


def is_installed() -> bool:
    """Whether OpenVINO is installed here."""
    return find_spec("openvino") is not None


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this CPU; elsewhere it takes fp32 for it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def convert(model: Model, shape: tuple[int, ...], *, free: bool = False) -> "openvino.Model":
    """The network for inputs of `shape` (B, C, H, W), in fp32; its weights are copied.

    Args:
        model: of which the network is taken.
        shape: of its inputs.
        free: leave height and width free, which takes longer: the result can be reshaped.

    Raises:
        ModelError: it cannot be converted.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    network = copy.deepcopy(model.network).float().eval()
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(network, (torch.zeros(shape),), dynamic_shapes=(sides,) if free else None)
            # not by `openvino.convert_model`, which reports what it converts to its makers
            decoder = TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=free)
            frontend = FrontEndManager().load_by_framework("pytorch")
            return frontend.convert(frontend.load(decoder))
    except Exception as error:  # those of PyTorch and OpenVINO have no common root
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{model.header.name}: OpenVINO cannot convert its network: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters have to say of themselves."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
