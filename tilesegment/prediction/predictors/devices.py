"""Which device and which precision a run uses."""

from functools import cache
from importlib.util import find_spec

import torch

from tilesegment.errors import DeviceError
from tilesegment.prediction.tiling import Machine
from tilesegment.threads import thread_count

PRECISIONS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` takes a GPU where there is one.

    Raises:
        DeviceError: there is no such device here.
    """
    _keep_to_cores()
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    there = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
    there += ["mps"] if mps else []
    if name not in there:
        raise DeviceError(f"device {name!r} is not here; there are: auto, {', '.join(there)}")
    return torch.device(name)


@cache
def _keep_to_cores() -> None:
    """Have PyTorch compute with no more threads than this process may, once: it does not see limits of a cgroup."""
    if torch.get_num_threads() > thread_count():
        torch.set_num_threads(thread_count())


def choose_precision(device: torch.device, name: str = "auto") -> str:
    """`auto`: half precision where the device computes in it natively, else fp32; other names are kept.

    Raises:
        DeviceError: unknown, or not to be had on `device`.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if name == "int8":
        _check_int8(device)
        return name
    if name not in PRECISIONS:
        raise DeviceError(f"precision {name!r} is unknown; allowed: auto, fp32, bf16, fp16, int8")
    if (device.type, name) in (("cpu", "fp16"), ("mps", "fp64")):
        raise DeviceError(f"precision {name} is not to be had on {device.type}; use --precision auto or fp32")
    return name


def has_openvino(device: torch.device, precision: str) -> bool:
    """Whether OpenVINO is here and computes in `precision`: what a CPU lacks it would compute in another, unasked."""
    native = precision in ("fp32", "int8") or (precision == "bf16" and _cpu_has_bf16())
    return device.type == "cpu" and native and find_spec("openvino") is not None


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise DeviceError(f"precision int8 is not to be had on {device.type}; use --precision auto, or --device cpu")
    if find_spec("openvino") is None or find_spec("nncf") is None:
        raise DeviceError(
            "precision int8 needs OpenVINO and NNCF; pip install 'tilesegment[int8]', or use --precision auto or fp32"
        )


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 natively; elsewhere bf16 is emulated and slower than fp32."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a batch may take on a CUDA device, half of what is free; None elsewhere: all else shares it."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] // 2


def this_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """What a plan needs to know of this machine, for a device and a precision as the user names them.

    Raises:
        DeviceError: they are not to be had here.
    """
    place = choose_device(device)
    precision = choose_precision(place, precision)
    return Machine(str(place), precision, free_memory(place), has_openvino(place, precision))


def use_gpu(number: int) -> None:
    """Of several GPUs, `cuda` means that of this number from now on in this thread; the numbers go round."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())
