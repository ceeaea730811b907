"""Memory does not depend on the image's size: measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import noise, toy_model
from image_files import zarr_array

# blocks are small, so that an image that were held whole would be large beside them
PROGRAM = """
import json
import sys
import torch
import tilesegment
from tilesegment.prediction.result import peak_memory

torch.set_num_threads(1)
peaks = []
for name in ("small", "large"):
    how = {"tile": 272, "block": 256, "precision": "fp32", "runtime": sys.argv[1]}
    tilesegment.predict(f"{name}/image.zarr", f"{name}.zarr", "model.safetensors", **how)
    peaks.append(peak_memory())
print(json.dumps(peaks))
"""


@pytest.mark.parametrize("runtime", ["pytorch", "openvino"])
def test_four_times_the_image_takes_the_same_memory(runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'tilesegment[cpu]'")
    toy_model(depth=1, base=1, channels=8, dtype="float32").save(tmp_path / "model.safetensors")
    write = zarr_array("cyx", (8, 256, 256), compressors=None, dimension_names=("c", "y", "x"))
    for name, height in (("small", 512), ("large", 2048)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, noise((8, height, 2048), dtype="float32"))
    command = [sys.executable, "-c", PROGRAM, runtime]
    done = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True)
    small, large = json.loads(done.stdout)
    # 134 MB of pixels against 34; what remains is the allocator's fragments
    assert large < small + 40e6
    assert large < 1.15 * small
