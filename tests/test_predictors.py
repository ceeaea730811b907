"""From the pixels of a block to its classes."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run
from conftest import noise, toy_model

import tilesegment
from tilesegment.errors import DeviceError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.devices import choose_device, choose_precision, free_memory
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def block_of(model: Model) -> Block:
    """A block of 2 x 2 tiles amid an image."""
    return TileGrid(Region(0, 0, 100, 100), 16, 32, model.field_of_view).at(1, 1)


def probabilities(model: Model, pixels: np.ndarray, precision: str = "fp64", **options: Any) -> np.ndarray:
    """Of the block of `block_of`, (K, h, w)."""
    return TorchPredictor(model, CPU, precision, **options).predict_probabilities(pixels, block_of(model))[1]


def pixels_of(model: Model, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return noise((model.header.channels, *block_of(model).read.shape), seed, dtype)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("bf16", np.float32), ("fp64", np.float64)])
def test_shapes_and_types_are_those_of_the_block(precision: str, dtype: type) -> None:
    model = toy_model(classes=3)
    block = TileGrid(Region(0, 0, 45, 37), 16, 32, model.field_of_view).at(1, 1)
    assert block.write.shape == (13, 5)
    pixels, predictor = noise((1, *block.read.shape)), TorchPredictor(model, CPU, precision)
    ids, found = predictor.predict_probabilities(pixels, block)
    assert (ids.shape, ids.dtype, found.shape, found.dtype) == ((13, 5), np.uint8, (3, 13, 5), dtype)
    np.testing.assert_allclose(found.sum(0), 1, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ids, found.argmax(0))
    np.testing.assert_array_equal(predictor.predict(pixels, block), ids)


@pytest.mark.parametrize("threshold", [None, 0.2, 0.9])
def test_two_classes_are_told_apart_by_the_threshold(threshold: float | None) -> None:
    model = toy_model()
    model = replace(model, header=replace(model.header, threshold=0.3))
    predictor, pixels = TorchPredictor(model, CPU, "fp32", threshold=threshold), pixels_of(model)
    ids, found = predictor.predict_probabilities(pixels, block_of(model))
    np.testing.assert_array_equal(ids, found[1] > (threshold or 0.3))
    np.testing.assert_array_equal(predictor.predict(pixels, block_of(model)), ids)


def test_tta_is_the_mean_over_the_eight_symmetries() -> None:
    """Each found by turning the image itself and turning its mask back.

    Where sides are multiples of the divisor and the context is as wide before as after, the pooling grid turns with it.
    """
    model, image = toy_model(depth=2), noise((1, 48, 64))
    _, found = predict_array(TorchPredictor(model, CPU, "fp64", tta=True), image, 24)
    single, masks = TorchPredictor(model, CPU, "fp64"), []
    for turns in range(4):
        for flipped in (image, image[:, :, ::-1]):
            _, turned = predict_array(single, np.rot90(flipped, turns, (1, 2)), 64)
            back = np.rot90(turned, -turns, (1, 2))
            masks.append(back if flipped is image else back[:, :, ::-1])
    np.testing.assert_allclose(found, np.mean(masks, 0), rtol=0, atol=1e-12)
    assert np.abs(found - masks[0]).max() > 1e-3, "the views differ"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_the_model_stays_as_it_is(precision: str) -> None:
    model, untouched = toy_model(), toy_model().network.state_dict()
    model.network.train()
    pixels, predictor = pixels_of(model), TorchPredictor(model, CPU, precision)
    before = predictor.predict_probabilities(pixels, block_of(model))[1]
    assert model.network.training
    for name, value in model.network.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, untouched[name]), name
    for parameter in model.network.parameters():
        parameter.fill_(0.5)
    np.testing.assert_array_equal(predictor.predict_probabilities(pixels, block_of(model))[1], before)


def test_fp32_and_bf16_are_close_to_fp64() -> None:
    model = toy_model(base=8)
    exact, single, half = (probabilities(model, pixels_of(model), each) for each in ("fp64", "fp32", "bf16"))
    np.testing.assert_allclose(single, exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(half, exact, rtol=0, atol=0.05)
    assert np.mean(half.argmax(0) != exact.argmax(0)) < 0.03
    assert np.abs(half - single).max() > 1e-5, "bf16 computes in bf16"


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_grey_values_count_and_not_their_type(dtype: str) -> None:
    """The same values stored otherwise give the same probabilities; a read-only or strided array is taken as it is."""
    model = toy_model(channels=2)
    pixels = pixels_of(model, "uint16")
    assert pixels.max() > 60_000, "more than int16 holds"
    strided = np.stack([pixels.astype(dtype)] * 2, axis=-1)[..., 0]
    for stored in (strided, np.ascontiguousarray(strided)):
        stored.flags.writeable = False
        np.testing.assert_array_equal(probabilities(model, stored), probabilities(model, pixels))


def test_another_normalisation_undoes_another_scale_of_grey_values() -> None:
    """A channel at a time: 2 v + 10 and 4 v - 3 with mean and std scaled alike are the original."""
    model = toy_model(channels=2)
    pixels = pixels_of(model).astype(np.float32)
    other = pixels * np.array([2, 4], "f4")[:, None, None] + np.array([10, -3], "f4")[:, None, None]
    scale = Normalisation((2 * 128.0 + 10, 4 * 128.0 - 3), (2 * 70.0, 4 * 70.0), "float32")
    expected = probabilities(model, pixels)
    np.testing.assert_allclose(probabilities(model, other, normalisation=scale), expected, rtol=0, atol=1e-12)
    assert np.abs(probabilities(model, other) - expected).max() > 1e-3


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_any_batch_gives_every_tile(batch: int) -> None:
    """Larger than the block, not a divisor of its tiles."""
    model = toy_model()
    found = probabilities(model, pixels_of(model), batch=batch)
    np.testing.assert_allclose(found, probabilities(model, pixels_of(model)), rtol=0, atol=1e-12)


class RoomFor(TorchPredictor):
    """On a device whose memory is full with more than `room` tiles at a time; there is no such device to test on."""

    room, error = 2, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def _logits(self, tiles: torch.Tensor) -> torch.Tensor:
        if len(tiles) > self.room:
            raise self.error
        return super()._logits(tiles)


@pytest.mark.parametrize("error", [RoomFor.error, RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")])
def test_without_memory_for_a_batch_half_as_many_are_taken(error: RuntimeError) -> None:
    model = toy_model()
    pixels, block = pixels_of(model), block_of(model)
    predictor = RoomFor(model, CPU, "fp64", batch=9)
    predictor.error = error
    _, found = predictor.predict_probabilities(pixels, block)
    assert (predictor.batch, predictor.lacked_memory) == (2, True)
    np.testing.assert_allclose(found, probabilities(model, pixels), rtol=0, atol=1e-12)
    predictor.error = RuntimeError("an illegal memory access was encountered")
    predictor.room = 0
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predictor.predict(pixels, block)
    predictor.error = error
    with pytest.raises(DeviceError, match=r"56 pixels.*--tile"):
        predictor.predict(pixels, block)


def test_a_run_says_that_it_took_fewer_tiles_at_a_time(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.prediction.predictor.TorchPredictor", RoomFor)
    done = run("predict slide.tif -m toy.safetensors --tile 88 --batch 5 -o m.zarr --json")
    assert "5 tiles at a time: 2" in done.err
    assert json.loads(done.out)["batch"] == 2
    assert tilesegment.open_mask(folder / "m.zarr").spec.provenance["batch"] == 2


def test_devices_are_chosen_by_name() -> None:
    assert choose_device("cpu") == CPU and free_memory(CPU) is None
    assert choose_device() == choose_device("auto")
    for name in ("gpu", "cuda:99", "cpu:0", "", "meta", *(["cuda"] if not torch.cuda.is_available() else [])):
        with pytest.raises(DeviceError, match=f"'{name}'.*allowed: auto, cpu"):
            choose_device(name)


def test_precisions_are_chosen_by_name() -> None:
    mps = torch.device("mps")
    for device, name in ((CPU, "fp64"), (CPU, "fp32"), (CPU, "bf16"), (mps, "fp16"), (CUDA, "fp16")):
        assert choose_precision(device, name) == name
    assert choose_precision(CPU) in ("fp32", "bf16")
    assert choose_precision(mps) == "fp32"
    with pytest.raises(DeviceError, match="'fp8' is unknown; allowed: auto, fp32, bf16, fp16, int8"):
        choose_precision(CPU, "fp8")
    for device, name in ((CPU, "fp16"), (mps, "fp64"), (CUDA, "int8")):
        with pytest.raises(DeviceError, match=f"{name} .* {device.type}; use --precision auto"):
            choose_precision(device, name)


class Asking(TorchPredictor):
    """Asks the device for a value before it goes on, which cannot be recorded."""

    def _logits(self, tiles: torch.Tensor) -> torch.Tensor:
        logits = super()._logits(tiles)
        return logits if float(logits.max()) > -1e9 else -logits


@needs_cuda
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_gpu_gives_what_the_cpu_gives(dtype: str) -> None:
    model = toy_model(base=8, dtype=dtype)
    scale = Normalisation((float(pixels_of(model, dtype).mean()),), (float(pixels_of(model, dtype).std()),), dtype)
    pixels, block = pixels_of(model, dtype), block_of(model)
    expected = probabilities(model, pixels, normalisation=scale)
    kinds = ((TorchPredictor, "fp64", 1e-10), (TorchPredictor, "fp32", 1e-4), (TorchPredictor, "bf16", 0.05))
    for kind, precision, tolerance in (*kinds, (TorchPredictor, "fp16", 0.01), (Asking, "fp32", 1e-4)):
        predictor = kind(model, CUDA, precision, normalisation=scale, batch=3)
        found = predictor.predict_probabilities(pixels, block)[1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    free = free_memory(CUDA)
    assert free is not None and free > 0


def cudnn_precision() -> str:
    return torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined,no-any-return]


def test_float32_is_not_rounded_to_tf32() -> None:
    model, noted = toy_model(), list[str]()
    model.network.register_forward_hook(lambda *_: noted.append(cudnn_precision()))
    before = cudnn_precision()
    assert before != "ieee", "a GPU would round, if it were left to it"
    predictor = TorchPredictor(model, CPU)
    noted.clear()
    predictor.predict(pixels_of(model), block_of(model))
    assert set(noted) == {"ieee"}
    assert cudnn_precision() == before


@pytest.mark.parametrize("device", [CPU, pytest.param(CUDA, marks=needs_cuda)])
@pytest.mark.parametrize("tta", [False, True])
def test_results_may_be_waited_for_later_and_by_another_thread(device: torch.device, tta: bool) -> None:
    """All blocks are begun before the first result is asked for; then the results are, the last one first."""
    model = toy_model(base=8, classes=3)
    blocks = [(pixels_of(model, seed=seed), block_of(model)) for seed in range(5)]
    alone = [TorchPredictor(model, device, batch=3, tta=tta).predict_probabilities(*each) for each in blocks]
    predictor = TorchPredictor(model, device, batch=3, tta=tta)
    pending = [predictor.begin(*each, probabilities=True) for each in blocks]
    with ThreadPoolExecutor(1) as another:
        results = list(another.map(lambda wait: wait(), reversed(pending)))
    for (ids, found), (expected_ids, expected) in zip(reversed(results), alone, strict=True):
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_array_equal(found, expected)
