"""The report of a run: one valid page that holds everything, whatever things are called."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tilesegment.metadata import LabelClass, default_colours
from tilesegment.training.loop import Record
from tilesegment.training.report import write_report
from tilesegment.training.validation import Scores

HOSTILE = "<script src='https://evil.example/x.js'>\"&amp; $x_1$ ../\n\udcff"
VOID = {"meta", "img"}
CELLS = Scores(
    goal="v_rand",
    value=0.9712,
    floor_value=0.0941,
    accuracy=0.9143,
    floor=0.7987,
    dice=(0.802, None),
    iou=(0.6691, 0.8963),
    miou=0.7827,
    v_rand=0.9712,
    v_info=0.9809,
    sections=(("23", 0.988), ("22", 0.953)),
)
RECORDS = [Record(n + 1, (n + 1) / 90, 1.5 * (n + 1), 1 / (n + 1), 1e-3) for n in range(90)]


class Page(HTMLParser):
    """What a page holds; fails where tags are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def classes(*names: str) -> tuple[LabelClass, ...]:
    return tuple(LabelClass(name, colour) for name, colour in zip(names, default_colours(len(names)), strict=True))


def report(folder: Path, **changes) -> str:
    given = {
        "title": "cells",
        "classes": classes("membrane", "inside"),
        "summary": "data  24 images\nheld out  2",
        "settings": {"steps": 90, "init": None, "augmentation": {"gamma": 1.4, "grid": (3, 5)}},
        "records": RECORDS,
        "scores": CELLS,
        "command": "tileseg predict IMAGE --model m.safetensors --out mask.zarr",
    }
    written = write_report(folder, **(given | changes))
    assert written == folder / "report.html"
    assert [path.name for path in folder.glob("*report*")] + [path.name for path in folder.glob(".*")] == [written.name]
    return written.read_text(encoding="utf-8")


def picture(path: Path, height: int, width: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_it_tells_the_scores_beside_what_a_constant_gets(tmp_path: Path) -> None:
    page = Page(report(tmp_path, tta=replace(CELLS, value=0.9799, v_info=0.99)))
    assert "V_Rand 0.971" in page.text and "0.980" in page.text and "0.094" in page.text
    assert ["V_Rand", "0.971", "0.980", "0.094"] in page.rows
    assert ["V_Info", "0.981", "0.990", ""] in page.rows
    assert ["mean IoU", "0.783", "0.783", ""] in page.rows
    assert ["pixel accuracy", "0.914", "0.914", "0.799"] in page.rows
    assert ["membrane", "0.802", "0.669", "0.802", "0.669"] in page.rows
    assert ["inside", "–", "0.896", "–", "0.896"] in page.rows
    assert page.rows.index(["22", "0.953"]) < page.rows.index(["23", "0.988"])
    assert "90 steps in 2 min 15 s, last loss 0.011" in page.text
    assert "hardly better" not in page.text


def test_it_tells_how_to_repeat_the_run_and_use_the_model(tmp_path: Path) -> None:
    page = Page(report(tmp_path))
    rows = [["steps", "90"], ["init", "not given"], ["augmentation.gamma", "1.4"], ["augmentation.grid", "3, 5"]]
    assert [row for row in page.rows if row in rows] == rows
    assert "data  24 images\nheld out  2" in page.text
    assert "tileseg predict IMAGE --model m.safetensors --out mask.zarr" in page.text


def test_other_goals_have_other_words(tmp_path: Path) -> None:
    pair = replace(CELLS, goal="dice", value=0.5, floor_value=0.6, v_rand=None, v_info=None)
    page = Page(report(tmp_path, scores=pair))
    assert "Dice of inside 0.500" in page.text and "hardly better" in page.text
    assert "V_Rand" not in page.text and "ISBI" not in page.text
    many = replace(pair, goal="miou", dice=(0.5,) * 3, iou=(0.25, 0.25, float("nan")))
    page = Page(report(tmp_path, scores=many, classes=classes("a", "b", "c")))
    assert "mean IoU 0.500" in page.text
    assert ["c", "0.500", "–"] in page.rows
    assert sum(row[0] == "mean IoU" for row in page.rows) == 1


def test_without_scores_or_records(tmp_path: Path) -> None:
    page = Page(report(tmp_path, scores=None, records=[]))
    assert "Not scored" in page.text and "not a single step" in page.text
    assert "1 step in 2 s" in report(tmp_path, records=RECORDS[:1])


def test_only_the_worst_of_many_images_are_listed(tmp_path: Path) -> None:
    many = tuple((f"image {n}", n / 100) for n in reversed(range(100)))
    page = Page(report(tmp_path, scores=replace(CELLS, sections=many)))
    listed = [row[0] for row in page.rows if row[0].startswith("image ")]
    assert listed == [f"image {n}" for n in range(20)]
    assert ["worst of 100 images", "V_Rand"] in page.rows


def test_whatever_things_are_called_nothing_is_loaded_or_run(tmp_path: Path) -> None:
    html = report(
        tmp_path,
        title=HOSTILE,
        classes=classes(HOSTILE, "b" + HOSTILE),
        summary=HOSTILE,
        settings={HOSTILE: HOSTILE, "more": {HOSTILE: [HOSTILE]}},
        scores=replace(CELLS, goal="dice", sections=((HOSTILE, 0.5),)),
        command=HOSTILE,
    )
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "a", "object", "base", "form"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/") if tag == "img" else "src" not in attributes
    assert page.text.count("<script src='https://evil.example/x.js'>") == 14, "every place that a name goes to"
    assert "url(" not in html and "@import" not in html
    policy = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_are_part_of_it_and_large_ones_are_compressed(tmp_path: Path) -> None:
    picture(tmp_path / "curves.png", 20, 30)
    large = picture(tmp_path / "samples.png", 700, 800)
    assert large.stat().st_size > 1_000_000
    html = report(tmp_path)
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert [(one["width"], one["height"]) for one in images] == [("30", "20"), ("800", "700")]
    kinds = []
    for one in images:
        _, kind, data = re.split("[:,]", one["src"] or "")
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
            shown.load()
            assert (str(shown.width), str(shown.height)) == (one["width"], one["height"])
            kinds.append((kind, shown.format))
    assert kinds == [("image/png;base64", "PNG"), ("image/jpeg;base64", "JPEG")]
    assert "Held-out images" in html and "Training examples" not in html


def test_an_earlier_report_stays_where_a_new_one_fails(tmp_path: Path) -> None:
    before = report(tmp_path)
    (tmp_path / "curves.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify"):
        report(tmp_path, title="new")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
