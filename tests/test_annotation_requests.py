"""Annotations over HTTP: two browsers on one file, limits, the eraser; nothing is written that should not be."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tilesegment.errors import ViewError
from tilesegment.viewer import Server, drawn, open_scene

Json = dict[str, Any]
EMPTY: Json = {"type": "FeatureCollection", "features": []}
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}


def with_point(x: float) -> Json:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [x, 1]}, "properties": {}}
    return {"type": "FeatureCollection", "features": [point]}


class Browser:
    """A client with its own connection and the version that it loaded."""

    def __init__(self, server: Server) -> None:
        self._server, self._connection = server, http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        self.version = ""

    def ask(self, method: str, name: str = "annotations", body: object = None, **headers: str) -> tuple[int, Json]:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self._connection.request(method, f"/{self._server.token}/{name}", sent, named)
        answer = self._connection.getresponse()
        text = answer.read()
        self.version = answer.headers.get("ETag", self.version)
        return answer.status, json.loads(text) if text else {}

    def load(self) -> Json:
        status, document = self.ask("GET")
        assert status == 200
        return document

    def store(self, document: object) -> int:
        return self.ask("PUT", body=document, If_Match=self.version)[0]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.tif"
    tifffile.imwrite(path, np.zeros((64, 80), np.uint8))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.geojson"


@pytest.fixture
def server(image: Path, file: Path) -> Iterator[Server]:
    with open_scene(image, annotate=file) as scene, Server(scene) as server:
        yield server


@pytest.fixture
def browser(server: Server) -> Iterator[Browser]:
    browser = Browser(server)
    yield browser
    browser.close()


def test_a_stroke_is_stored_and_loaded(browser: Browser, file: Path) -> None:
    assert browser.ask("GET", "scene.json")[1]["annotations"] is True
    assert browser.load() == EMPTY and not file.exists()
    assert browser.store(with_point(2.5)) == 200
    assert json.loads(file.read_bytes()) == with_point(2.5)
    assert browser.store(with_point(3.5)) == 200  # the version of the answer is the one to go on from
    assert browser.load() == with_point(3.5)


def test_the_second_of_two_browsers_is_told(server: Server, browser: Browser, file: Path) -> None:
    second = Browser(server)
    browser.load()
    second.load()
    assert browser.store(with_point(1)) == 200
    status, said = second.ask("PUT", body=with_point(2), If_Match=second.version)
    assert status == 409 and "changed by another" in said["error"]
    assert json.loads(file.read_bytes()) == with_point(1)
    assert second.load() == with_point(1)
    assert second.store(with_point(2)) == 200
    assert browser.ask("GET", If_None_Match=browser.version) == (200, with_point(2))
    assert browser.ask("GET", If_None_Match=browser.version) == (304, {})
    second.close()


def test_a_change_by_another_program_is_told(browser: Browser, file: Path) -> None:
    browser.load()
    file.write_text(json.dumps(with_point(7)))
    assert browser.store(EMPTY) == 409
    assert json.loads(file.read_bytes()) == with_point(7)
    file.write_text('{"type": "Feature')
    status, said = browser.ask("GET")
    assert status == 400 and "labels.geojson" in said["error"]


@pytest.mark.parametrize("headers", [{}, {"If_Match": "*"}, {"If_Match": '"abc"'}])
def test_who_does_not_say_what_they_changed_stores_nothing(
    browser: Browser, file: Path, headers: dict[str, str]
) -> None:
    assert browser.ask("PUT", body=EMPTY, **headers)[0] == 428
    assert not file.exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"type": "FeatureCollection", "features": [{}]}'])
def test_what_is_not_valid_is_not_stored(browser: Browser, file: Path, body: bytes) -> None:
    browser.load()
    status, said = browser.ask("PUT", body=body, If_Match=browser.version)
    assert status == 400 and "\n" not in said["error"]
    assert not file.exists()


def test_what_is_too_large_is_not_stored(browser: Browser, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.load()
    assert browser.store(b" " * (drawn.MAX_BYTES + 1)) == 413
    monkeypatch.setattr(drawn, "MAX_FEATURES", 3)
    assert browser.store({**EMPTY, "features": with_point(1)["features"] * 4}) == 413
    assert not file.exists()
    assert browser.store(with_point(1)) == 200


def test_a_stranger_stores_nothing(server: Server, browser: Browser, file: Path) -> None:
    browser.load()
    for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}):
        assert browser.ask("PUT", body=EMPTY, If_Match=browser.version, **headers)[0] == 403
        assert browser.ask("POST", "annotations/erase", body={}, **headers)[0] == 403
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("PUT", f"/{'x' * len(server.token)}/annotations", "{}", {"If-Match": browser.version})
    assert connection.getresponse().status == 404
    connection.close()
    assert not file.exists()


def test_erasing(browser: Browser) -> None:
    area = {"type": "Polygon", "coordinates": [[[2, -1], [9, -1], [9, 9], [2, 9], [2, -1]]]}
    point = {"type": "Point", "coordinates": [3, 3]}
    status, said = browser.ask("POST", "annotations/erase", {"geometries": [SQUARE, point], "area": area})
    assert status == 200
    left, gone = said["geometries"]
    assert gone is None and sorted(map(tuple, left["coordinates"][0][:-1])) == [(0, 0), (0, 4), (2, 0), (2, 4)]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", {"geometries": [SQUARE]}, {"geometries": 3, "area": SQUARE}, {"geometries": [[]], "area": SQUARE}],
)
def test_erasing_what_is_not_there(browser: Browser, body: object) -> None:
    assert browser.ask("POST", "annotations/erase", body)[0] == 400
    assert browser.ask("GET", "annotations/erase")[0] == 405


def test_erasing_is_bounded(browser: Browser) -> None:
    zigzag = [[float(n), float(n % 2)] for n in range(5000)]
    large = {"type": "Polygon", "coordinates": [[*zigzag, [0, 9], zigzag[0]]]}
    assert browser.ask("POST", "annotations/erase", {"geometries": [large], "area": large})[0] == 413


def test_without_a_file_there_is_nothing_to_ask(image: Path) -> None:
    with open_scene(image) as scene, Server(scene) as server:
        browser = Browser(server)
        assert browser.ask("GET", "scene.json")[1]["annotations"] is False
        assert browser.ask("GET")[0] == browser.ask("POST", "annotations/erase", {})[0] == 404
        browser.close()


def test_a_broken_file_is_told_at_the_start(image: Path, file: Path) -> None:
    file.write_text("{")
    with pytest.raises(ViewError, match=r"labels\.geojson is not readable"):
        open_scene(image, annotate=file)
