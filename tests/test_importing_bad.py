"""Weights that cannot be imported: a line that says why, nothing run, nothing written."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import PublicUNet, Tutorial, refused, saved, shaken
from torch import nn

from tilesegment.errors import ModelError
from tilesegment.metadata import PixelSize
from tilesegment.models.importing import import_weights
from tilesegment.models.model import Model


@pytest.fixture
def public() -> nn.Module:
    torch.manual_seed(0)
    return shaken(PublicUNet(base=3, depth=2))


@pytest.mark.parametrize("changed", ["order", "kind", "shape"])
def test_another_order_kind_or_shape_is_refused(changed: str, tmp_path: Path) -> None:
    state = Tutorial().state_dict()
    others = {
        "order": dict(reversed(state.items())),
        "kind": {name.replace("running_mean", "running_average"): value for name, value in state.items()},
        "shape": {**state, "last.weight": torch.zeros(2, 4, 1, 1)},
    }
    told = {"norm": "batch", "up": "transposed", "down": "max-pool"}
    message = refused(tmp_path, saved(tmp_path, others[changed]), by_order=True, options=told)
    assert message.endswith("; nor do they fit by their order")
    assert ("of another shape (head.weight (2, 4, 1, 1)" in message) is (changed == "shape")


def test_what_does_not_fit_is_listed(tmp_path: Path, public: nn.Module) -> None:
    state = public.state_dict()
    del state["outc.conv.bias"]
    state["attention.weight"] = torch.zeros(3)
    state["up1.up.weight"] = torch.zeros(12, 6, 3, 3)
    message = refused(tmp_path, saved(tmp_path, state))
    assert "not the weights of unet-same: 1 missing (head.bias); 1 left over (attention.weight); " in message
    assert message.endswith("1 of another shape (up.0.weight (12, 6, 3, 3) instead of (12, 6, 2, 2))")
    many = public.state_dict() | {f"extra.{n}.weight": torch.zeros(1) for n in range(8)}
    message = refused(tmp_path, saved(tmp_path, many))
    assert message.endswith("8 left over (" + ", ".join(f"extra.{n}.weight" for n in range(5)) + ", ...)")
    message = refused(tmp_path, saved(tmp_path, public.state_dict()), options={"depth": 3})
    assert message.endswith("not the weights of unet-same with depth=3; they fit with --option depth=2")
    message = refused(tmp_path, saved(tmp_path, public.state_dict()), options={"base": 4})
    assert message.endswith("they fit with --option base=3")
    assert "\x1b" not in refused(tmp_path, saved(tmp_path, {"a\x1b[31m\n.b": torch.zeros(3)}))


class Canary:
    """Whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("writing", ["zip", "legacy", "pickle", "nested", "module"])
def test_a_pickle_is_never_run(
    writing: str, tmp_path: Path, public: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    state = {**public.state_dict(), "epoch": Canary(canary)}
    if writing == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        content = {"nested": {"state_dict": public.state_dict(), "arguments": [Canary(canary)]}, "module": Tutorial()}
        torch.save(content.get(writing, state), path, _use_new_zipfile_serialization=writing != "legacy")
    message = refused(tmp_path, path)
    # of a pickle that torch did not write nothing is read at all
    names = {"pickle": "not what torch.save writes", "module": "it holds foreign_networks.Tutorial, which may run code"}
    assert names.get(writing, "it holds posix.system, which may run code") in message
    assert "nothing in it was run: save it with torch.save(network.state_dict(), FILE)" in message
    assert not canary.exists()
    if writing == "pickle":
        # it would have been
        pickle.loads(path.read_bytes())
        assert canary.exists()


def test_files_that_are_no_state_dict(tmp_path: Path, public: nn.Module) -> None:
    path = tmp_path / "weights.pth"
    torch.save(public.state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"\x80", b"PK\x03\x04", b"text of some length", bytes(100), whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "weights.pth" in refused(tmp_path, path)
    for content in (b"\x02" + bytes(7) + b"{}", b"\xff" * 8 + b"{" + bytes(50), b"\x09" + bytes(7) + b'{"a":"b"}'):
        path.write_bytes(content)
        message = refused(tmp_path, path)
        assert "a damaged safetensors file" in message or "without weights by name" in message
    for thing, kind in (([1, 2], "list"), (torch.zeros(3), "Tensor"), ({"a": 1}, "dict"), ({}, "dict")):
        assert f"a {kind} without weights by name" in refused(tmp_path, saved(tmp_path, thing))
    assert "cannot be read (No such file" in refused(tmp_path, tmp_path / "nowhere.pth")
    assert "cannot be read (Is a directory" in refused(tmp_path, tmp_path)


def test_tensors_that_are_no_weights(tmp_path: Path, public: nn.Module) -> None:
    state = public.state_dict()
    for value in (
        torch.zeros(3, 3, 3, 3, dtype=torch.int32),
        torch.zeros(3, 3, 3, 3).to_sparse(),
        torch.empty(3, 3, 3, 3, device="meta"),
    ):
        path = saved(tmp_path, {**state, "inc.double_conv.0.weight": value})
        assert "inc.double_conv.0.weight is no plain tensor of floats" in refused(tmp_path, path)
    path = saved(tmp_path, {"inc.double_conv.0.weight": torch.zeros(1).expand(512, 64, 10**5, 10**5)})
    assert "its tensors claim more numbers than it holds" in refused(tmp_path, path)
    path = saved(tmp_path, {**state, "inc.double_conv.0.weight": torch.full((3, 3, 3, 3), torch.nan)})
    assert "holds NaN or infinity" in refused(tmp_path, path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "unet2"}, "no network is called 'unet2'; there are: unet, "),
        ({"options": {"bass": 3}}, "takes no 'bass'; it takes: "),
        ({"options": {"up": "sideways"}}, "up is 'sideways'; allowed: transposed"),
        ({"network": "unet"}, "weights of the public U-Net, not of unet; import them as network unet-same"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed: uint8, uint16, float32"),
        ({"classes": ["a"]}, "classes a: expected 2 different names"),
        ({"classes": ["a", "a"]}, "classes a, a: expected 2 different names"),
        ({"mean": [1, 2]}, "2 values of mean for 3 channels; give one"),
        ({"std": [0]}, "a positive std"),
        ({"pixel_size": PixelSize(-1, 1)}, "its pixel size is -1 x 1"),
    ],
)
def test_what_cannot_be_given(given: dict[str, Any], message: str, tmp_path: Path, public: nn.Module) -> None:
    assert message in refused(tmp_path, saved(tmp_path, public.state_dict()), **given)


def test_an_existing_model_is_kept(tmp_path: Path, public: nn.Module) -> None:
    path, out = saved(tmp_path, public.state_dict()), tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(ModelError, match="exists; name another output, or use --overwrite"):
        import_weights(path, out, network="unet-same")
    assert out.read_bytes() == b"mine"
    import_weights(path, out, network="unet-same", overwrite=True)
    assert Model.load(out).header.name == "weights"
    with pytest.raises(ModelError, match="would replace the weights that it is made of"):
        import_weights(path, path, network="unet-same", overwrite=True)
