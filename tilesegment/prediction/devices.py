"""Choice of device and precision."""

from functools import cache
from importlib.util import find_spec

import torch

from tilesegment.errors import DeviceError
from tilesegment.models.onnx_network import CUDA_REMEDY, runs_on
from tilesegment.prediction.tiling import Machine
from tilesegment.threads import thread_count

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes a GPU if there is one.

    Raises:
        DeviceError: this machine has no such device.
    """
    _limit_threads()
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    there = ["cpu", *["cuda"] * cuda, *(f"cuda:{n}" for n in range(torch.cuda.device_count())), *["mps"] * mps]
    if name not in there:
        raise DeviceError(f"device {name!r} is not available; allowed: auto, {', '.join(there)}")
    return torch.device(name)


@cache
def _limit_threads() -> None:
    """Limit PyTorch to the threads that this process may use: it ignores cgroup limits."""
    if torch.get_num_threads() > thread_count():
        torch.set_num_threads(thread_count())


def choose_precision(device: torch.device, name: str = "auto") -> str:
    """Resolve `auto` to half precision where the device computes in it natively, else fp32; check other names.

    Raises:
        DeviceError: unknown, or not available on `device`.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if name not in (*PRECISIONS, "int8"):
        raise DeviceError(f"precision {name!r} is unknown; allowed: auto, fp32, bf16, fp16, int8")
    if (device.type, name) in (("cpu", "fp16"), ("mps", "fp64")) or (name == "int8" and device.type != "cpu"):
        hint = ", or --device cpu" if name == "int8" else " or fp32"
        raise DeviceError(f"precision {name} is not available on {device.type}; use --precision auto{hint}")
    if name == "int8" and not (find_spec("openvino") and find_spec("nncf")):
        raise DeviceError(
            "precision int8 needs OpenVINO and NNCF; pip install 'tilesegment[int8]', or use --precision auto or fp32"
        )
    return name


def has_openvino(device: torch.device, precision: str) -> bool:
    """Whether OpenVINO is installed and computes in `precision`: on a CPU without it, it silently uses another."""
    native = precision in ("fp32", "int8") or (precision == "bf16" and _cpu_has_bf16())
    return device.type == "cpu" and native and find_spec("openvino") is not None


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively; elsewhere bf16 is emulated and slower than fp32."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def why_onnx_on_cpu(device: torch.device) -> str:
    """Say why ONNX models run on the CPU although PyTorch could use `device`; empty if they run on it."""
    if runs_on(device):
        return ""
    return f"the onnxruntime here does not run ONNX models on {device.type}: computing on the CPU{CUDA_REMEDY}"


def free_memory(device: torch.device) -> int | None:
    """Return the bytes for a batch on a CUDA device, half of what is free; None elsewhere, where memory is shared."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else None


def this_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Describe this machine for a plan, for the device and precision that the user named.

    Raises:
        DeviceError: they are not available here.
    """
    place = choose_device(device)
    precision = choose_precision(place, precision)
    return Machine(str(place), precision, free_memory(place), has_openvino(place, precision))


def use_gpu(number: int) -> None:
    """Make GPU `number` (modulo their count) the `cuda` device of this thread."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())
