"""A mask in other programs: transforms are those of its metadata, text is quoted, files go to no stranger."""

import ast
import json
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from command_line import Run
from image_files import make_pixels, ome_zarr, png, tiff, tiff_pyramid
from mask_files import attributes, mask_of
from skipping_images import predict

import tilesegment
from tilesegment import Region, TilesegmentError, open_mask
from tilesegment.errors import ViewError
from tilesegment.stores import Location
from tilesegment.viewer.elsewhere import (
    NEUROGLANCER,
    files_of,
    groovy,
    napari_script,
    neuroglancer_state,
    neuroglancer_url,
    open_for,
    qupath_steps,
)
from tilesegment.viewer.folders import FolderServer

ODD = 'it\'s a "mask" \\ $(x) $y {z}\nü'


def constants(script: str) -> dict[str, Any]:
    """The names in capitals that a program sets."""
    found = {}
    for node in ast.parse(script).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


@contextmanager
def arrays(script: str) -> Iterator[dict[str, Any]]:
    """What a program has read when it comes to import napari; its files are closed in the end."""
    body = []
    for node in ast.parse(script).body:
        if isinstance(node, ast.Import) and node.names[0].name == "napari":
            break
        body.append(node)
    else:
        raise AssertionError("napari is never imported")
    names: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), "program", "exec"), names)
    try:
        yield names
    finally:
        for name in ("image_file", "mask_file"):
            if name in names:
                names[name].close()


CASES = {
    "whole": {},
    "a part of a level": {"level": 1, "roi": Region(100, 200, 500, 700)},
    "resampled": {"mpp": 0.8},
    "Zarr 2": {"level": 1, "ngff": "0.4"},
}


class TestNapari:
    @pytest.mark.parametrize("how", CASES.values(), ids=CASES)
    def test_the_mask_lies_where_its_metadata_says(self, tmp_path: Path, how: dict[str, Any]) -> None:
        image = ome_zarr("0.5", "yx", 0.5)(tmp_path, make_pixels(1, 600, 800))
        predict(image, "mask.zarr", **how)
        script = napari_script(open_for(tmp_path / "mask.zarr"))
        compile(script, "program", "exec")
        known = constants(script)
        datasets = attributes(tmp_path / "mask.zarr")["multiscales"][0]["datasets"]
        scale, translation = (
            next(one[kind] for one in datasets[0]["coordinateTransformations"] if one["type"] == kind)
            for kind in ("scale", "translation")
        )
        assert known["PIXEL"] == (0.5, 0.5)
        assert known["SCALE"] == pytest.approx(scale)
        assert known["TRANSLATE"] == pytest.approx(translation)
        with arrays(script) as read:
            assert [one.shape for one in read["image"]] == [(600, 800), (300, 400), (150, 200)]
            np.testing.assert_array_equal(read["mask"][0][:], mask_of(tmp_path / "mask.zarr"))
        assert len(read["mask"]) == len(open_mask(tmp_path / "mask.zarr").levels)

    def test_planes_of_a_stack_lie_in_theirs(self, tmp_path: Path) -> None:
        image = ome_zarr("0.5", "zyx", 0.25)(tmp_path, make_pixels(6, 1, 120, 140))
        predict(image, "mask.zarr", z=(2, 5))
        known = constants(napari_script(open_for(tmp_path / "mask.zarr")))
        assert known["TRANSLATE"][0] == 2 * known["SCALE"][0] == 2 * known["PIXEL"][0]
        assert len(known["SCALE"]) == 3

    @pytest.mark.parametrize("mask", ["mask.tif", "mask.png"])
    def test_tiff_and_png_are_read_too(self, tmp_path: Path, mask: str) -> None:
        image = tiff_pyramid("yxc", tile=(64, 64))(tmp_path, make_pixels(3, 256, 320))
        predict(image, mask)
        script = napari_script(open_for(tmp_path / mask))
        opened, known = open_mask(tmp_path / mask), constants(script)
        with arrays(script) as read:
            np.testing.assert_array_equal(read["mask"][0][:], opened.read(Region.of_shape(opened.spec.shape)))
            assert [one.shape for one in read["image"]] == [(256, 320, 3), (128, 160, 3), (64, 80, 3)]
        assert (known["SCALE"], known["TRANSLATE"]) == ((1.0, 1.0), (0.0, 0.0))
        assert known["CLASSES"] == ["class 0", "class 1", "class 2"]
        assert known["COLOURS"][1] == opened.spec.classes[1].colour

    def test_other_images_are_left_to_napari(self, tmp_path: Path) -> None:
        image = png(tmp_path, make_pixels(1, 100, 120))
        predict(image, "mask.zarr")
        script = napari_script(open_for(tmp_path / "mask.zarr"))
        with arrays(script) as read:
            assert (read["image"], constants(script)["IMAGE"]) == (None, str(image))
        image.rename(tmp_path / "moved.png")
        assert constants(napari_script(open_for(tmp_path / "mask.zarr")))["IMAGE"] is None
        assert constants(napari_script(open_for(tmp_path / "mask.zarr", tmp_path / "moved.png")))["IMAGE"] == str(
            tmp_path / "moved.png"
        )

    def test_a_mask_on_a_server_is_read_from_there(self, tmp_path: Path, s3: Location) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 200, 240))
        predict(image, "toy.zarr")
        done = tilesegment.predict(image, s3 / "a/mask.zarr", tmp_path / "toy-1.safetensors", tile=88, block=96)
        assert done.finished
        opened = open_mask(s3 / "a/mask.zarr")
        with arrays(napari_script(open_for(s3 / "a/mask.zarr"))) as read:
            np.testing.assert_array_equal(read["mask"][0][:], opened.read(Region.of_shape(opened.spec.shape)))
        state = neuroglancer_state(open_for(s3 / "a/mask.zarr"))
        endpoint = dict(s3.options)["endpoint"]
        assert state["layers"][0]["source"] == f"zarr://{endpoint}/{s3.root}/{(s3 / 'a/mask.zarr').key}"


def odd_mask(folder: Path) -> Path:
    """A mask and an image in a folder of an odd name."""
    here = folder / ODD
    here.mkdir()
    image = ome_zarr("0.5", "yx", 0.5)(here, make_pixels(1, 200, 240))
    predict(image, f"{ODD}.zarr")
    return here / f"{ODD}.zarr"


def test_odd_names_are_quoted_as_each_language_asks(tmp_path: Path) -> None:
    mask = odd_mask(tmp_path)
    opened = open_for(mask)
    assert constants(napari_script(opened))["MASK"] == str(mask)
    with arrays(napari_script(opened)) as read:
        assert read["mask"][0].shape == (200, 240)
    steps = qupath_steps(opened).split("\n   ")
    line = next(one for one in steps if one.startswith("tileseg")).partition("\n2. ")[0]
    words = shlex.split(line)
    assert words[:3] == ["tileseg", "objects", str(mask)]
    assert words[4] == str(mask.parent / f"{ODD}.geojson")
    url = neuroglancer_url(neuroglancer_state(opened, "http://127.0.0.1:1/t/"))
    assert not set(url) & set(" \"'\n{}$")
    assert json.loads(unquote(url.partition("#!")[2]))["layers"][-1]["name"] == mask.name


def test_groovy_is_escaped() -> None:
    assert groovy("C:\\a'b$c\n") == r"'C:\\a\'b$c\n'"


class TestNeuroglancer:
    def test_layers_have_the_classes_colours(self, tmp_path: Path) -> None:
        image = ome_zarr("0.5", "yx", 0.5)(tmp_path, make_pixels(1, 200, 240))
        predict(image, "mask.zarr")
        opened = open_for(tmp_path / "mask.zarr")
        assert files_of(opened) == {"mask": tmp_path / "mask.zarr", "image": image}
        below, over = neuroglancer_state(opened, "http://127.0.0.1:9/t/")["layers"]
        assert (below["type"], below["source"]) == ("image", "zarr://http://127.0.0.1:9/t/image/")
        assert (over["type"], over["source"]) == ("segmentation", "zarr://http://127.0.0.1:9/t/mask/")
        colours = {str(n): one.colour for n, one in enumerate(opened.mask.spec.classes) if n}
        assert (over["segments"], over["segmentColors"]) == (["1", "2"], colours)

    def test_what_it_cannot_read_is_left_out_or_refused(self, tmp_path: Path) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 200, 240))
        predict(image, "mask.zarr")
        predict(image, "mask.tif")
        assert len(neuroglancer_state(open_for(tmp_path / "mask.zarr"), "http://x/")["layers"]) == 1
        with pytest.raises(ViewError, match=r"mask\.tif is TIFF: predict into a \.zarr"):
            neuroglancer_state(open_for(tmp_path / "mask.tif"))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = FolderServer({"mask": folder}, NEUROGLANCER)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.base
    finally:
        server.stop()
        thread.join()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    try:
        with urlopen(Request(url, headers=headers, method=method)) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except HTTPError as refused:
        with refused:
            return refused.code, dict(refused.headers), refused.read()


class TestFiles:
    @pytest.fixture
    def base(self, tmp_path: Path) -> Iterator[str]:
        (tmp_path / "mask").mkdir()
        (tmp_path / "mask" / "bytes").write_bytes(bytes(range(100)))
        (tmp_path / "secret").write_text("mine")
        (tmp_path / "mask" / "link").symlink_to(tmp_path / "secret")
        with serving(tmp_path / "mask") as url:
            yield url

    def test_a_mask_is_read_through_it(self, tmp_path: Path) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 200, 240))
        predict(image, "mask.zarr")
        with serving(tmp_path / "mask.zarr") as url:
            read = open_mask(f"{url}mask")
            np.testing.assert_array_equal(read.read(Region(0, 0, 200, 240)), mask_of(tmp_path / "mask.zarr"))

    def test_ranges_and_headers_are_what_a_page_needs(self, base: str) -> None:
        code, headers, body = ask(f"{base}mask/bytes", Range="bytes=10-19", Origin=NEUROGLANCER)
        assert (code, body) == (206, bytes(range(10, 20)))
        assert headers["Access-Control-Allow-Origin"] == NEUROGLANCER
        code, headers, body = ask(f"{base}mask/bytes", "HEAD", Origin="http://localhost:8080")
        assert (code, headers["Content-Length"], body) == (200, "100", b"")
        code, headers, _ = ask(f"{base}mask/bytes", "OPTIONS", Origin=NEUROGLANCER)
        assert (code, headers["Access-Control-Allow-Headers"]) == (204, "Range, If-None-Match")

    @pytest.mark.parametrize(
        "path", ["mask/link", "mask/..%2fsecret", "mask/../secret", "mask/", "secret", "mask/none"]
    )
    def test_nothing_else_is_served(self, base: str, path: str) -> None:
        code, _, body = ask(base + path)
        assert code in (403, 404)
        assert b"mine" not in body

    def test_strangers_are_refused(self, base: str) -> None:
        assert ask(f"{base}mask/bytes", Origin="https://evil.example")[0] == 403
        assert ask(f"{base}mask/bytes", Host="evil.example")[0] == 403
        assert ask(f"{base}mask/bytes", "PUT")[0] == 405
        token = base.rstrip("/").rpartition("/")[2]
        assert ask(base.replace(token, "x" * len(token)) + "mask/bytes")[0] == 404


class TestCommand:
    def test_it_prints_what_shows_the_mask(self, tmp_path: Path, run: Run) -> None:
        image = ome_zarr("0.5", "yx", 0.5)(tmp_path, make_pixels(1, 200, 240))
        predict(image, "mask.zarr")
        found = run("open --in napari", str(tmp_path / "mask.zarr"))
        assert (found.code, found.err) == (0, "")
        assert found.out == napari_script(open_for(tmp_path / "mask.zarr"))
        found = run("open --in neuroglancer", str(tmp_path / "mask.zarr"))
        assert shlex.split(found.out)[:3] == ["tileseg", "open", str(tmp_path / "mask.zarr")]
        found = run("open --in qupath", str(tmp_path / "mask.zarr"), "--image", str(tmp_path))
        assert "importObjectsFromFile" in found.out

    @pytest.mark.parametrize("program", ["napari", "qupath"])
    def test_a_program_that_is_not_there_is_told(
        self, tmp_path: Path, run: Run, program: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 100, 120))
        predict(image, "mask.zarr")
        monkeypatch.setenv("PATH", str(tmp_path))
        found = run(f"open --start --in {program}", str(tmp_path / "mask.zarr"))
        assert (found.code, found.err.count("\n")) == (1, 1), found.err
        assert found.err.startswith("Error: ")

    @pytest.mark.parametrize(("more", "told"), [("", "no mask"), ("--image none.tif", "none.tif")])
    def test_wrong_input_is_one_line(self, tmp_path: Path, run: Run, more: str, told: str) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 100, 120))
        predict(image, "mask.zarr")
        found = run(f"open --in napari {more}", str(image if not more else tmp_path / "mask.zarr"))
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert told in found.err

    def test_no_image_is_a_note(self, tmp_path: Path, run: Run) -> None:
        image = tiff("yx")(tmp_path, make_pixels(1, 100, 120))
        predict(image, "mask.zarr")
        image.unlink()
        found = run("open --in qupath", str(tmp_path / "mask.zarr"))
        assert (found.code, found.err.count("\n")) == (0, 1)
        assert "--image" in found.err


def test_a_mask_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.zarr").mkdir()
    with pytest.raises(TilesegmentError):
        open_for(tmp_path / "mask.zarr")
