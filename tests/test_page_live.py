"""A mask that grows while it is looked at, in a real browser, and what the server tells of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import toy_model
from page_browser import chromium, needs_browser, watched_page

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, MaskWriter, create_mask, open_mask
from tilesegment.metadata import LabelClass
from tilesegment.viewer import Scene, Server, open_scene
from tilesegment.viewer.layer import Progress
from tilesegment.viewer.live import MOST_CELLS, cells_of, in_progress

SIDE, BLOCK = 1024, 256
CLASSES = (LabelClass("background", "#000000"), LabelClass("gland", "#ff0000"))
BLOCKS = list(Region.of_shape((SIDE, SIDE)).squares(BLOCK))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "slide.tif", np.full((SIDE, SIDE), 99, np.uint8), tile=(256, 256))
    return tmp_path / "slide.tif"


@pytest.fixture
def writer(tmp_path: Path) -> MaskWriter:
    """A mask whose first two blocks are stored, all of them of class 1."""
    begun = create_mask(tmp_path / "mask.zarr", MaskSpec((SIDE, SIDE), None, BLOCK, 128, CLASSES, None))
    store(begun, BLOCKS[:2])
    return begun


def store(writer: MaskWriter, blocks: list[Region]) -> None:
    for block in blocks:
        writer.write(block, np.ones(block.shape, np.uint8))


def told(scene: Scene) -> list[dict[str, Any]]:
    """What is told of progress, after the time for which a look at the blocks is kept."""
    import time

    time.sleep(0.6)
    return in_progress(scene.layers)["layers"]


def test_progress_says_how_far_how_fast_and_where(image: Path, writer: MaskWriter) -> None:
    with open_scene(image, [writer.path]) as scene:
        (first,) = told(scene)
        assert (first["layer"], first["done"], first["total"]) == (1, 2, 16)
        assert first["rate"] is None and first["left"] is None
        assert first["cells"] == {"side": BLOCK, "counts": [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]}
        store(writer, BLOCKS[2:8])
        (second,) = told(scene)
        assert (second["done"], second["cells"]["counts"][1]) == (8, [1, 1, 1, 1])
        assert second["version"] > first["version"]
        assert second["left"] == pytest.approx(SIDE**2 / 2 / 1e6 / second["rate"])
        store(writer, BLOCKS[8:])
        writer.finish()
        assert told(scene) == []
        assert scene.layers[1].value(SIDE - 1, SIDE - 1, 0)["text"] == "gland"


def test_cells_are_few_however_many_blocks_there_are() -> None:
    stored = np.random.default_rng(0).random((2, 700, 300)) < 0.5
    found = cells_of(
        Progress(1, 2, 1, stored=stored, block=512),
    )
    assert found is not None
    counts, factor = np.array(found["counts"]), found["side"] // 512
    assert max(counts.shape) <= MOST_CELLS
    assert counts.sum() == stored.sum()
    assert counts[3, 2] == stored[:, 3 * factor : 4 * factor, 2 * factor : 3 * factor].sum()
    assert cells_of(Progress(1, 2, 1)) is None


def test_a_mask_is_waited_for_that_no_run_has_begun(image: Path, tmp_path: Path) -> None:
    """The address is printed as soon as there is a first block, or none yet."""
    command = [sys.executable, "-m", "tilesegment_cli.main", "view", image, tmp_path / "mask.zarr", "--no-browser"]
    with subprocess.Popen([*command, "--wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None and run.stderr is not None
            assert run.stderr.readline().startswith("Waiting for a run that begins ")
            create_mask(tmp_path / "mask.zarr", MaskSpec((SIDE, SIDE), None, BLOCK, 128, CLASSES, None))
            assert run.stdout.readline().startswith("http://127.0.0.1:")
        finally:
            run.terminate()
    done = subprocess.run([*command[:-2], tmp_path / "other.zarr"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "other.zarr" in done.stderr  # without --wait it is a mistake


@needs_browser
def test_blocks_appear_as_they_are_stored_and_only_their_tiles_are_asked_for(
    browser: Any, image: Path, writer: MaskWriter
) -> None:
    with open_scene(image, [writer.path]) as scene, Server(scene) as server, watched_page(browser, server.url) as page:
        page.page.evaluate("() => app.items.get(1).setOpacity(1)")
        page.check_colour(100, 400, (255, 0, 0))
        page.check_colour(800, 800, (99, 99, 99))
        asked: list[str] = []
        page.page.on("request", lambda request: asked.append(request.url.split("/tile/")[-1].split("?")[0]))
        store(writer, BLOCKS[8:])  # the lower half
        page.check_colour(800, 800, (255, 0, 0))
        tiles = {one for one in asked if one.startswith("1/0/0/")}
        assert tiles <= {"1/0/0/1/0", "1/0/0/1/1"}  # of the finest zoom those below alone
        store(writer, BLOCKS[2:8])
        writer.finish()
        page.page.get_by_role("status").filter(has_text="mask.zarr is complete").wait_for()
        page.check_colour(300, 800, (255, 0, 0))
        assert not page.page.get_by_role("progressbar").is_visible()


@needs_browser
@pytest.mark.slow
def test_a_run_is_watched_from_its_first_blocks_to_its_end(browser: Any, tmp_path: Path) -> None:
    """A prediction in another process, watched; what is drawn in the end is what the mask holds."""
    image, mask, model = tmp_path / "slide.tif", tmp_path / "mask.zarr", tmp_path / "model.safetensors"
    toy_model(depth=2, base=8).save(model)
    pixels = np.random.default_rng(0).integers(0, 256, (4096, 4096), dtype=np.uint8)
    tifffile.imwrite(image, pixels, tile=(256, 256))
    code = "import sys, tilesegment as t; t.predict(*sys.argv[1:], tile=172, block=128)"  # 1,024 blocks
    command = [sys.executable, "-c", code, image, mask, model]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        partial = mask.with_name("mask.zarr.partial")
        while not partial.is_dir():
            assert run.poll() is None
        with open_scene(image, [mask]) as scene, Server(scene) as server, watched_page(browser, server.url) as page:
            seen = set()
            while run.poll() is None:
                bar = "() => document.querySelector('progress[aria-label=\"Progress of mask.zarr\"]')?.value ?? 0"
                seen.add(page.page.evaluate(bar))
                page.page.wait_for_timeout(100)
            assert len(seen) >= 2, "it did not grow"
            page.page.get_by_role("status").filter(has_text="mask.zarr is complete").wait_for(timeout=120_000)
            page.page.evaluate("() => app.items.get(1).setOpacity(1)")
            check_drawn(page, open_mask(mask), scene)
    assert run.returncode == 0


def check_drawn(page: Any, mask: Any, scene: Scene) -> None:
    """Check at some pixels that the colour of the stored class is drawn."""
    classes = scene.layers[1].described()["classes"]
    for y, x in ((5, 5), (1000, 700), (2040, 2040)):
        page.zoom_to(y, x, 60)
        number = int(mask.read(Region(y, x, y + 1, x + 1))[0, 0])
        if number:  # class 0 is not shown
            page.check_colour(y, x, LabelClass("", classes[number]["colour"]).rgb)
