"""Bad input on the command line: one line that says what to do, and nothing harmed."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run, contents
from conftest import noise, toy_model
from data_sets import write_pairs
from image_files import zarr_array
from PIL import Image


@pytest.fixture
def bad(folder: Path) -> Path:
    """The working folder with all that is wrong in it."""
    whole = Path("slide.tif").read_bytes()
    Path("cut.tif").write_bytes(whole[: len(whole) // 2])
    with tifffile.TiffFile("slide.tif") as file:
        start, length = file.pages.first.dataoffsets[-1], file.pages.first.databytecounts[-1]
    Path("corrupt.tif").write_bytes(whole[:start] + b"\x55" * length + whole[start + length :])
    Path("text.tif").write_text("this is no image")
    Path("empty.png").touch()
    Path("empty.zarr").mkdir()
    zarr_array("yx", (1, 1))(Path(), np.zeros((1, 0, 4), np.uint8))
    Path("image.zarr").rename("zero.zarr")
    nan = noise((64, 64), dtype="float32")
    nan[5, 5] = np.nan
    tifffile.imwrite("nan.tif", nan)
    tifffile.imwrite("deep.tif", noise((40, 50), dtype="uint16"))
    tifffile.imwrite("double.tif", np.zeros((40, 50)))
    toy_model(dtype="float32").save("float.safetensors")
    model = Path("toy.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(model[:-100])
    Path("flipped.safetensors").write_bytes(model[:-50] + bytes([model[-50] ^ 1]) + model[-49:])
    Path("text.safetensors").write_text("no model at all, but a text that is long enough")
    Path("pickle.pt").write_bytes(b"\x80\x04canary")
    Path("taken.zarr").mkdir()
    Path("taken.zarr/precious").write_text("mine")
    Path("taken.tif").write_text("mine")
    Path("file").write_text("mine")
    for name in ("no_label", "no_image", "sizes", "grey"):
        write_pairs(folder / name, 2, side=40)
    Path("no_label/labels/00.png").unlink()
    Path("no_image/images/00.png").unlink()
    Image.fromarray(np.zeros((40, 41), np.uint8)).save("sizes/labels/00.png")
    Image.fromarray(noise((40, 40))).save("grey/labels/00.png")
    return folder


PREDICT = "predict {} -m toy.safetensors --tile 88 --out m.zarr"
MODEL = "predict slide.tif -m {} --tile 88 --out m.zarr"
OUT = "predict slide.tif -m toy.safetensors --tile 88 --out {}"
OPTION = "predict slide.tif -m toy.safetensors --out m.zarr {}"

# a line, its exit code, and what its message names
BAD = [
    *((PREDICT.format(name), 1, name) for name in ("missing.tif", "text.tif", "cut.tif", "corrupt.tif", "empty.png")),
    *((PREDICT.format(name), 1, name) for name in ("empty.zarr", "zero.zarr")),
    (PREDICT.format("double.tif"), 1, "double.tif is float64, the model was trained on uint8"),
    (PREDICT.format("deep.tif"), 1, "deep.tif is uint16, the model was trained on uint8"),
    (PREDICT.format("rgb.png"), 1, "rgb.png has 3 channels, the model takes 1"),
    (PREDICT.format("nan.tif").replace("toy", "float"), 1, "nan.tif holds NaN"),
    ("predict rgb.png --channels 0,1 --out m.zarr", 1, "2 channels"),
    *((MODEL.format(name), 1, name) for name in ("missing.safetensors", "text.safetensors", "cut.safetensors")),
    *((MODEL.format(name), 1, name) for name in ("flipped.safetensors", "pickle.pt", "slide.tif")),
    (MODEL.format("rgb.safetensors"), 1, "the model takes 3"),
    *((OUT.format(name), 1, name) for name in ("taken.zarr", "taken.tif", "m.xyz", "m.jpg")),
    (OUT.format("m.zarr --preview slide.tif"), 1, "slide.tif"),
    (OUT.format("taken.zarr --overwrite"), 1, "taken.zarr"),
    (OUT.format("no/m.zarr"), 1, "no folder"),
    (OUT.format("file/m.zarr"), 1, "no folder"),
    (OUT.format("slide.tif --overwrite"), 1, "slide.tif"),
    (OUT.format("m.zarr --probabilities m.tif"), 1, "m.tif"),
    (OPTION.format("--tile 20"), 1, "44 and 48"),
    (OPTION.format("--tile 573"), 1, "572 and 576"),
    (OPTION.format("--tile big"), 2, "'--tile': 'big' is not a valid integer (see tileseg predict --help)"),
    (OPTION.format("--device tpu"), 1, "'tpu'"),
    (OPTION.format("--precision fp8"), 1, "auto"),
    (OPTION.format("--roi 0:10"), 2, "'0:10' is not a region"),
    (OPTION.format("--roi 5:5,0:9"), 2, "'5:5,0:9' is not a region"),
    (OPTION.format("--roi 0:999,0:9"), 1, "0:999,0:9"),
    (OPTION.format("--level 2"), 1, "levels 0 to 0"),
    (OPTION.format("--z 0:1"), 1, "z axis"),
    (OPTION.format("--z 3"), 2, "a:b"),
    (OPTION.format("--batch 0"), 2, "'0' is not a batch"),
    (OPTION.format("--channels red"), 2, "whole numbers"),
    (OPTION.format("--select t"), 2, "AXIS=INDEX"),
    (OPTION.format("--threshold 2"), 1, "--threshold is 2.0; allowed: between 0 and 1"),
    (OPTION.format("--ngff 1"), 2, "'1' is not one of '0.5', '0.4'"),
    (OPTION.format("--colour"), 2, "--colour"),
    (OPTION.format("--out-dir masks"), 2, "--out-dir"),
    (OPTION.format("--format tif"), 2, "--format"),
    (OPTION.format("--part 3/2"), 2, "'3/2' is not a part"),
    (OPTION.format("--part 1/2 --workers 2"), 2, "--part"),
    (OPTION.format("--workers 2 --scheduler tcp://1"), 2, "--scheduler"),
    (OPTION.format("--scheduler none.json"), 1, "none.json"),
    (OPTION.format("--tls-ca slide.tif"), 2, "--tls-ca"),
    (OPTION.format("--dashboard"), 2, "--dashboard"),
    (OPTION.format("--wait 5m"), 2, "--wait"),
    ("predict slide.tif stack.tif --out m.zarr", 2, "--out-dir"),
    ("predict slide.tif --out-dir masks --preview p.png", 2, "--preview"),
    ("predict --list none.txt --out-dir masks", 1, "none.txt"),
    ("predict slide.tif -m toy.safetensors", 2, "Missing option '--out'"),
    ("predict", 2, "Missing argument 'IMAGE...': name an image, or a --list of them (see tileseg predict --help)"),
    ("segment slide.tif", 2, "No such command 'segment'"),
    ("train missing", 1, "missing"),
    ("train no_label", 1, "no_label/images/00.png"),
    ("train no_image", 1, "no_image/labels/00.png"),
    ("train sizes", 1, "40 x 41"),
    ("train grey", 1, "label 00"),
    ("train no_label --budget soon", 2, "'soon' is not a time; write 90s, 20m or 2h"),
    ("train no_label --out file", 1, "file is a file"),
    ("train no_label --out grey", 1, "grey"),
    ("verify missing.tif -m toy.safetensors", 1, "missing.tif"),
    ("verify slide.tif -m toy.safetensors --precision bf16", 2, "'bf16' is not one of 'fp64', 'fp32'"),
    ("info taken.zarr", 1, "taken.zarr"),
    ("info pickle.pt", 1, "pickle.pt"),
    ("status slide.tif", 1, "slide.tif"),
    ("status missing.zarr", 1, "missing.zarr"),
    ("preview slide.tif taken.zarr --out look.png", 1, "taken.zarr"),
]


@pytest.mark.parametrize(("line", "code", "named"), BAD, ids=[f"{n} {case[0]}" for n, case in enumerate(BAD)])
def test_bad_input_is_one_line_and_no_harm(line: str, code: int, named: str, bad: Path, run: Run) -> None:
    before = contents(bad)
    found = run(line)
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith("Error: ") and found.err.count("\n") == 1
    assert named in found.err
    assert contents(bad) == before
    assert not any(Path(name).exists() for name in ("m.zarr", "masks", "runs"))


def test_a_folder_that_cannot_be_written_to(folder: Path, run: Run) -> None:
    """/proc refuses root, too."""
    found = run("predict slide.tif -m toy.safetensors --tile 88 --out /proc/m.zarr")
    assert found.code == 1
    assert found.err.startswith("Error: ") and "/proc/m.zarr" in found.err and found.err.count("\n") == 1


def test_a_name_of_two_lines_is_told_on_one(run: Run) -> None:
    found = run("info", "two\nlines.tif")
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "two lines.tif" in found.err
