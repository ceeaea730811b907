"""Every path that any command takes, with every way in which a path can fail: one line that names it, and no harm."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import Run, fill
from data_sets import write_pairs
from rights import refused

import tilesegment
from tilesegment_cli.main import tileseg
from tilesegment_cli.types import PathType

# what takes text that is no path; a new option has to be put here or to be given a type of `PathType`
NO_PATHS = {
    "predict": {"device", "precision", "runtime", "axes", "heatmap_class", "border", "store_options"},
    "status": {"store_options"},
    "finish": {"store_options"},
    "info": {"axes", "store_options"},
    "tissue": {"axes", "store_options"},
    "train": {"preset", "network", "optimiser", "loss", "goal", "normalise", "device", "precision", "name", "licence"},
    "verify": {"device", "runtime", "axes", "store_options"},
    "bench": {"device", "precision", "runtime", "axes", "store_options"},
    "preview": {"store_options"},
    "evaluate": {"store_options"},
    "objects": {"border", "store_options"},
    "summary": {"border", "store_options"},
    "open": {"store_options"},
    "suggest": {"device", "precision", "store_options"},
    "view": {"axes", "host", "store_options"},
    "import": {"network", "dtype", "name", "licence"},
}


def use(line: str, *fine: str) -> tuple[str, frozenset[str]]:
    """A command with {} for the path, and the ways of `BAD` that are no failure of this path."""
    return line, frozenset(fine)


# no folder of this name is a file of the wrong kind for what takes both, and what is written is not there yet
_NEW = ("missing",)
_PREDICT = "predict slide.tif --model toy.safetensors --tile 88 --out m.zarr"
_TLS = _PREDICT + " --scheduler tls://127.0.0.1:1"
_OBJECTS = "objects mask.zarr --out c.csv"
_OBJECTS_TLS = _OBJECTS + " --scheduler tls://127.0.0.1:1"
_TRAIN = "train data --steps 1 --base 2 --depth 1 --tile 60 --validation 0"
USES = {
    "predict images": use("predict {} --model toy.safetensors --tile 88 --out m.zarr"),
    "predict out": use("predict slide.tif --model toy.safetensors --tile 88 --out {}", *_NEW),
    "predict out_dir": use("predict slide.tif --model toy.safetensors --tile 88 --out-dir {}", *_NEW, "folder"),
    # any text is a list
    "predict listed": use("predict --list {} --model toy.safetensors --tile 88 --out-dir o", "file"),
    "predict model": use("predict slide.tif --model {} --tile 88 --out m.zarr"),
    "predict skip_empty": use(_PREDICT + " --skip-empty {}"),
    "predict roi": use(_PREDICT + " --roi {}"),
    "predict probabilities": use(_PREDICT + " --probabilities {}", *_NEW),
    "predict preview": use(_PREDICT + " --preview {}", *_NEW),
    "predict heatmap": use(_PREDICT + " --probabilities p.zarr --heatmap {}", *_NEW),
    "predict objects_": use(_PREDICT + " --objects {}", *_NEW),
    "predict scheduler": use(_PREDICT + " --scheduler {}"),
    "predict tls_ca": use(_TLS + " --tls-ca {} --tls-cert note --tls-key note", "file"),
    "predict tls_cert": use(_TLS + " --tls-ca note --tls-cert {} --tls-key note", "file"),
    "predict tls_key": use(_TLS + " --tls-ca note --tls-cert note --tls-key {}", "file"),
    "objects mask": use("objects {} --out c.csv"),
    "objects out": use("objects mask.zarr --out {}", *_NEW),
    "objects image": use("objects mask.zarr --out c.csv --image {}"),
    "objects scheduler": use(_OBJECTS + " --scheduler {}"),
    "objects tls_ca": use(_OBJECTS_TLS + " --tls-ca {} --tls-cert note --tls-key note", "file"),
    "objects tls_cert": use(_OBJECTS_TLS + " --tls-ca note --tls-cert {} --tls-key note", "file"),
    "objects tls_key": use(_OBJECTS_TLS + " --tls-ca note --tls-cert note --tls-key {}", "file"),
    "summary masks": use("summary {}"),
    "summary out": use("summary mask.zarr --out {}", *_NEW),
    "open mask": use("open {} --in napari"),
    "open image": use("open mask.zarr --in napari --image {}", "folder", "file"),
    "suggest mask": use("suggest {} --probabilities likely.zarr"),
    "suggest out": use("suggest mask.zarr --probabilities likely.zarr --size 32 --out {}", *_NEW),
    "suggest probabilities": use("suggest mask.zarr --size 32 --probabilities {}"),
    "suggest image": use("suggest mask.zarr --size 32 --model toy.safetensors --image {}"),
    "suggest model": use("suggest mask.zarr --size 32 --image slide.tif --model {}"),
    "suggest roi": use("suggest mask.zarr --probabilities likely.zarr --size 32 --roi {}"),
    "suggest labels": use("suggest mask.zarr --probabilities likely.zarr --size 32 --labels {}"),
    "status masks": use("status {}"),
    "finish mask": use("finish {}"),
    "train data": use("train {} --steps 1 --base 2 --depth 1 --tile 60 --out run"),
    "train out": use(_TRAIN + " --out {}", *_NEW, "folder"),
    "train labels": use("train slide.tif --steps 1 --base 2 --depth 1 --tile 60 --out run --labels {}"),
    "train config": use(_TRAIN + " --out run --config {}"),
    "train init": use("train data --steps 1 --tile 72 --out run --init {}"),
    "train tensorboard": use(_TRAIN + " --out run --tensorboard {}", *_NEW, "folder"),
    "evaluate prediction": use("evaluate {} data/labels"),
    "evaluate truth": use("evaluate predicted {}"),
    "evaluate figure": use("evaluate predicted data/labels --image data/images --figure {}", *_NEW),
    "evaluate image": use("evaluate predicted data/labels --figure f.png --image {}"),
    "verify image": use("verify {} --model toy.safetensors --tile 88"),
    "verify model": use("verify slide.tif --model {} --tile 88"),
    "bench image": use("bench {} --model toy.safetensors --seconds 1"),
    "bench model": use("bench slide.tif --model {} --seconds 1"),
    "bench folder": use("bench slide.tif --model toy.safetensors --seconds 1 --dir {}", "folder"),
    "preview image": use("preview {} mask.zarr --out p.png"),
    "preview mask": use("preview slide.tif {} --out p.png"),
    "preview out": use("preview slide.tif mask.zarr --out {}", *_NEW),
    "tissue image": use("tissue {} --out t.png"),
    "tissue out": use("tissue slide.tif --out {}", *_NEW),
    "view image": use("view {} --no-browser"),
    "view masks": use("view slide.tif {} --no-browser"),
    "view truth": use("view slide.tif mask.zarr --truth {} --no-browser"),
    "view annotate": use("view slide.tif --no-browser --annotate {}", *_NEW),
    "view places": use("view slide.tif --no-browser --places {}"),
    "info path": use("info {}"),
    "import path": use("import {} --network unet-same --out i.safetensors"),
    "import out": use("import weights.safetensors --network unet-same --out {}", *_NEW),
    "export model": use("export {} --to onnx --out m.onnx"),
    "export out": use("export toy.safetensors --to onnx --out {}", *_NEW),
}
# what is written, and with which ending
ENDINGS = {
    "predict out": ".zarr",
    "predict probabilities": ".zarr",
    "predict preview": ".png",
    "predict heatmap": ".png",
    "predict objects_": ".csv",
    "objects out": ".csv",
    "summary out": ".csv",
    "suggest out": ".geojson",
    "evaluate figure": ".png",
    "preview out": ".png",
    "tissue out": ".geojson",
    "view annotate": ".geojson",
    "import out": ".safetensors",
    "export out": ".onnx",
}
# ways of being bad, by the name of a path in the folder below
BAD = {
    "missing": "missing/nothing",
    "folder": "empty",
    "file": "note",
    "in a file": "note/inside",
    "in a locked folder": "locked/secret",
    "locked": "sealed",
    "in a folder that is read-only": "readonly/new",
    "long": "n" * 300,
    "loop": "loop",
    "empty": "",
    "blank": " ",
    "NUL": "a\0b",
    "not UTF-8": os.fsdecode(b"caf\xe9"),
}
WRITTEN = {name for name, one in USES.items() if "missing" in one[1]} | {"bench folder"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with good and bad paths in it."""
    here = tmp_path_factory.mktemp("paths")
    fill(here)
    write_pairs(here / "data", 2, side=64)
    shutil.copytree(here / "data" / "labels", here / "predicted")
    settings = {"tile": 88, "precision": "fp32"}
    likely = {"probabilities": here / "likely.zarr"}
    tilesegment.predict(here / "slide.tif", here / "mask.zarr", here / "toy.safetensors", **settings, **likely)
    shutil.copy(here / "toy.safetensors", here / "weights.safetensors")
    (here / "empty").mkdir()
    (here / "note").write_text("mine")
    (here / "sealed").write_text("mine")
    (here / "locked").mkdir()
    (here / "locked" / "secret").write_text("mine")
    (here / "readonly").mkdir()
    (here / "loop").symlink_to("loop")
    (here / "readonly").chmod(0o555)
    (here / "locked").chmod(0)
    (here / "sealed").chmod(0)
    yield here
    for name in ("readonly", "locked"):
        (here / name).chmod(0o700)


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Works in that folder, without the right of root to open whatever it likes."""
    monkeypatch.chdir(prepared)
    with refused():
        yield prepared


def paths_of(command: click.Command) -> set[str]:
    return {str(one.name) for one in command.params if isinstance(one.type, PathType)}


def text_of(command: click.Command) -> set[str]:
    return {str(one.name) for one in command.params if isinstance(one.type, click.types.StringParamType)}


def test_no_path_of_any_command_is_left_out() -> None:
    commands = tileseg.commands
    assert {f"{name} {path}" for name, command in commands.items() for path in paths_of(command)} == set(USES)
    assert {name: text_of(command) for name, command in commands.items() if text_of(command)} == NO_PATHS


def listing(folder: Path) -> list[str]:
    """Everything there is, as far as it can be seen, with sizes."""
    return sorted(
        f"{Path(where) / name} {os.lstat(Path(where) / name).st_size}"
        for where, folders, files in os.walk(folder)
        for name in (*folders, *files)
    )


CASES = [pytest.param(name, way, id=f"{name}, {way}") for name in USES for way in BAD if way not in USES[name][1]]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_bad_path_is_named_in_one_line_and_nothing_is_harmed(name: str, way: str, here: Path, run: Run) -> None:
    path = BAD[way]
    if name in WRITTEN and way in ("in a file", "in a folder that is read-only"):
        path += ENDINGS.get(name, "")
    before = listing(here)
    first, rest = USES[name][0].split("{}")
    found = run(first, path, *rest.split())
    assert found.code in (1, 2), (found.out, found.err)
    assert found.out == ""
    assert found.err.startswith("Error: ")
    assert found.err.count("\n") == 1, found.err
    assert "Traceback" not in found.err
    shown = {"empty": "''", "blank": "' '", "NUL": r"a\x00b", "not UTF-8": "caf"}.get(way, path.split("/")[0])
    assert shown in found.err, found.err
    assert listing(here) == before


# places on no server that answers, of a kind that there is not, and that lack something
URLS = {
    "no server": "http://127.0.0.1:1/x",
    "no store": "s3://bucket/x",
    "no account": "az://container/x",
    "no bucket": "s3:///x",
    "no such kind": "ftp://host/x",
    "query": "https://host/x?token=secret",
}
ENDPOINT = "--store-option=endpoint=http://127.0.0.1:1"


@pytest.mark.parametrize("kind", URLS)
@pytest.mark.parametrize("name", USES)
def test_a_url_is_refused_in_one_line_where_it_cannot_be_used(
    name: str, kind: str, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.stores.remote.PAUSES", ())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = URLS[kind] + ENDINGS.get(name, ".zarr" if kind == "no server" else "")
    first, rest = USES[name][0].split("{}")
    command = tileseg.commands[name.split()[0]]
    more = [ENDPOINT] if any(one.name == "store_options" for one in command.params) else []
    before = listing(here)
    found = run(first, url, *rest.split(), *more)
    assert found.code in (1, 2), (found.out, found.err)
    assert found.out == ""
    assert found.err.startswith("Error: "), found.err
    assert found.err.count("\n") == 1, found.err
    assert URLS[kind].partition("?")[0].removesuffix("container/x") in found.err
    assert "secret" not in found.err or name.endswith("scheduler")  # whose address is none of a store
    assert listing(here) == before


# what is wrong behind a path that is right
BEHIND = {
    "a folder of the data": ("train {}/data --steps 1 --out run", "images", None),
    "an image of the data": ("train {}/data --steps 1 --out run", "images/00.png", None),
    "a label of the data": ("train {}/data --steps 1 --out run", "labels/00.png", None),
    "a mask of many": ("evaluate {}/predicted data/labels", "00.png", "predicted"),
    "a truth of many": ("evaluate predicted {}/data/labels", "00.png", "data/labels"),
}


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("way", ["locked", "dangling", "loop"])
def test_what_lies_in_a_folder_is_named_too(
    what: str, way: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    line, inner, top = BEHIND[what]
    for name in ("data", "predicted"):
        shutil.copytree(prepared / name, tmp_path / name)
    bad = tmp_path / (top or "data") / inner
    monkeypatch.chdir(prepared)
    if way == "locked":
        bad.chmod(0)
    else:
        shutil.rmtree(bad) if bad.is_dir() else bad.unlink()
        bad.symlink_to(bad.name if way == "loop" else "nowhere")
    with refused():
        found = run(line.format(tmp_path))
    if way == "locked":
        bad.chmod(0o700)
    assert found.code in (1, 2)
    assert found.err.startswith("Error: ")
    assert found.err.count("\n") == 1, found.err
    assert bad.name in found.err or inner.split("/")[0] in found.err


def test_a_list_that_is_no_text_is_refused(here: Path, run: Run) -> None:
    here.joinpath("list.txt").write_text("slide.tif\na\0b")
    found = run("predict --list list.txt --model toy.safetensors --tile 88 --out-dir o")
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert "list.txt" in found.err
    assert not Path("o").exists()


def test_images_of_a_list_are_named_too(here: Path, run: Run) -> None:
    """Each fails by itself, the others are done."""
    names = ["slide.tif", BAD["in a locked folder"], "n" * 200 + "/" + "n" * 300 + "/a.tif", BAD["loop"]]
    here.joinpath("list.txt").write_text("\n".join(names))
    found = run("predict --list list.txt --model toy.safetensors --tile 88 --out-dir o")
    assert found.code == 3, found.err
    assert "Traceback" not in found.err
    for shown in ("locked/secret", "nnn", "loop"):
        assert any(line.startswith("Error: ") and shown in line for line in found.err.splitlines()), shown
    assert "1 of 4 images done" in found.err
