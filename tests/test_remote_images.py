"""Images on a server: the same pixels as from a disk, each byte once, and no fault taken for background."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import noise
from cut_proxy import CutProxy, proxied
from image_files import make_pixels, ome_zarr, png, tiff, zarr_array
from reader_cases import DRAWN, Case
from s3_server import S3Server, upload
from zarr.errors import ZarrUserWarning

from tilesegment.errors import ImageError, StoreError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.identity import identity
from tilesegment.images.zarr import ZarrSource
from tilesegment.stores import Location, place_of, store_at

REMOTE = {
    name: case
    for name, case in DRAWN.items()
    if case.format.split()[0] in ("TIFF", "OME-TIFF", "Zarr", "OME-Zarr", "PNG", "JPEG", "WebP", "BMP")
}


@contextmanager
def served(folder: Path, *, ranges: bool = False) -> Iterator[str]:
    """Serve a folder over plain http, which knows no listing and, with Python's own server, no ranges."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def list_directory(self, path: Any) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted, file = self.headers.get("Range"), Path(self.translate_path(self.path))
            if not ranges or wanted is None or not file.is_file():
                return super().do_GET()
            content, (first, last) = file.read_bytes(), wanted.removeprefix("bytes=").split("-")
            start = int(first) if first else max(len(content) - int(last), 0)
            stop = min(int(last) + 1, len(content)) if first and last else len(content)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            self.wfile.write(content[start:stop])
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def assert_same(path: Path, place: Any, **reading: Any) -> None:
    """Compare an image on the disk with one elsewhere: all that it says and all pixels."""
    with open_image(path, **reading) as local, open_image(place, **reading) as remote:
        for name in ("format", "levels", "depth", "channels", "dtype", "stored_dtype", "frame", "contents"):
            assert getattr(remote, name) == getattr(local, name), name
        assert len(remote.notes) == len(local.notes) or place.scheme.startswith("http")
        for n, level in enumerate(local.levels):
            for z in range(local.depth or 1):
                whole = Region.of_shape(level.shape)
                np.testing.assert_array_equal(remote.read(whole, n, z), local.read(whole, n, z))


@pytest.mark.parametrize("case", REMOTE.values(), ids=REMOTE)
def test_the_same_pixels_come_from_a_server(case: Case, tmp_path: Path, s3: Location) -> None:
    path = case.write(tmp_path, case.pixels)
    assert_same(path, upload(path, s3 / "a folder"))


@pytest.mark.parametrize("name", ["tiff tiles", "zarr shards", "zarr 2-d", "ome-zarr 0.4", "ome-zarr 0.5", "png rgb"])
@pytest.mark.parametrize("ranges", [True, False])
def test_the_same_pixels_come_over_plain_http(name: str, ranges: bool, tmp_path: Path) -> None:
    """Nothing is listed there; without ranges small files and shards are fetched whole."""
    pytest.importorskip("obstore")
    path = DRAWN[name].write(tmp_path, DRAWN[name].pixels)
    with served(tmp_path, ranges=ranges) as address:
        assert_same(path, place_of(f"{address}/{path.name}"))


def test_the_same_pixels_come_from_memory_and_by_a_file_url(tmp_path: Path) -> None:
    for write in (tiff(tile=(32, 32)), zarr_array("yxc", (32, 32, 3), shards=(64, 64, 3)), png):
        path = write(tmp_path, make_pixels(3, 90, 110))
        assert_same(path, upload(path, Location("memory", "images", "x")))
        with open_image(path) as local, open_image(path.as_uri()) as same:
            assert same.path == local.path == str(path)


@pytest.mark.parametrize("name", ["tiff tiles", "zarr chunks", "zarr shards"])
def test_what_is_announced_comes_once_and_meanwhile(name: str, tmp_path: Path, s3: Location) -> None:
    """Also where more is announced than read, and more read than announced."""
    pixels = make_pixels(1, 200, 300)
    write = {
        "tiff tiles": tiff(tile=(32, 32), compression="zlib"),
        "zarr chunks": zarr_array("yx", (32, 32)),
        "zarr shards": zarr_array("yx", (32, 32), shards=(64, 64)),
    }[name]
    place = upload(write(tmp_path, pixels), s3)
    regions = [Region(y, x, y + 70, x + 80) for y in (0, 60, 120) for x in (0, 70, 140, 210)]
    received = []
    for announces in (False, True):
        with open_image(place) as source:
            for region in regions * announces:
                source.announce(region)
            for region in regions:
                np.testing.assert_array_equal(source.read(region), pixels[:, *region.slices])
            received.append(source.decoded_bytes)
    assert received[1] == received[0]
    with open_image(place) as source:
        source.announce(regions[-1])
        np.testing.assert_array_equal(source.read(regions[0]), pixels[:, *regions[0].slices])


def test_a_fault_of_what_was_announced_is_told_when_it_is_read(tmp_path: Path, s3: Location) -> None:
    place = upload(zarr_array("yx", (32, 32))(tmp_path, make_pixels(1, 64, 64)), s3)
    with open_image(place) as source:
        store_at(place).put("c/0/1", b"damaged")
        source.announce(Region(0, 0, 64, 64))
        with pytest.raises(ImageError, match="c/0/1"):
            source.read(Region(0, 0, 64, 64))
        source.announce(Region(32, 0, 64, 64))
        assert source.read(Region(32, 0, 64, 64)).shape == (1, 32, 64)


def test_images_of_a_group_are_found_where_nothing_is_listed(tmp_path: Path, s3: Location) -> None:
    """As bioformats2raw writes them; over plain http consolidated metadata tells which there are."""
    group = tmp_path / "several.zarr"
    zarr.create_group(group, attributes={"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    for n in range(2):
        ome_zarr("0.5", "yx", 0.3)(group, make_pixels(1, 60, 70 + n)).rename(group / str(n))
    place = upload(group, s3)
    with pytest.raises(ImageError, match="holds 2 images"):
        open_image(place)
    assert_same(group, place, series=1)
    with pytest.warns(ZarrUserWarning, match="not part"):
        zarr.consolidate_metadata(group)
    with served(tmp_path, ranges=True) as address:
        assert_same(group, place_of(f"{address}/several.zarr"), series=1)


class TestFetchOnce:
    """Requests and bytes, as the store counts them."""

    def test_shards(self, tmp_path: Path, s3: Location) -> None:
        """1024 x 1024 in 4 shards of 16 x 16 chunks of 32."""
        pixels = noise((1024, 1024))
        path = tmp_path / "image.zarr"
        zarr.create_array(path, data=pixels, shards=(512, 512), chunks=(32, 32), compressors=None)
        place = upload(path, s3)
        with open_image(place) as source:
            assert isinstance(source, ZarrSource)
            opened = source.requests
            # a window over all four shards: their indexes, then the rows of chunks that touch it
            window = Region(420, 420, 604, 604)
            np.testing.assert_array_equal(source.read(window)[0], pixels[window.slices])
            first = source.requests - opened
            assert first <= 4 * (1 + 4)
            assert source.decoded_bytes <= 8 * 8 * 32**2 * 4 + 4 * (16 * 256 + 4)
            # the same indexes serve all the reads that follow
            source._pieces.close()
            source.read(window)
            assert source.requests - opened - first <= first - 4

    def test_each_chunk_once_where_blocks_overlap(self, tmp_path: Path, s3: Location) -> None:
        pixels = noise((3, 600, 640))
        for path in (zarr_array("yxc", (128, 128, 3))(tmp_path, pixels), tiff(tile=(128, 128))(tmp_path, pixels)):
            place = upload(path, s3)
            stored = sum(one.size for one in store_at(s3).list(path.name)) or path.stat().st_size
            with open_image(place) as source:
                begun = source.decoded_bytes
                for y in range(0, 600, 200):
                    for x in range(0, 640, 320):
                        around = Region(max(y - 20, 0), max(x - 20, 0), min(y + 220, 600), min(x + 340, 640))
                        np.testing.assert_array_equal(source.read(around), pixels[:, *around.slices])
                assert pixels.nbytes <= source.decoded_bytes - begun <= 1.02 * stored, path

    def test_a_shard_that_is_needed_whole_is_one_request(self, tmp_path: Path, s3: Location) -> None:
        place = upload(zarr_array("yx", (64, 64), shards=(256, 256))(tmp_path, noise((1, 512, 512))), s3)
        with open_image(place) as source:
            begun = source.requests
            source.read(Region(0, 0, 512, 512))
            assert source.requests == begun + 4

    def test_tiles_of_a_block_come_in_few_requests(self, tmp_path: Path, s3: Location) -> None:
        """25 of 400 tiles: 5 rows of tiles, a request each."""
        pixels = noise((3, 2560, 2560))
        place = upload(tiff(tile=(128, 128))(tmp_path, pixels), s3)
        with open_image(place) as source:
            requests, begun = source.requests, source.decoded_bytes
            assert requests <= 6 and begun < 1 << 20
            source.read(Region(512, 512, 512 + 640, 512 + 640))
            assert source.requests - requests == 5
            assert source.decoded_bytes - begun < 1.1 * store_at(s3).head(place.name).size * 25 / 400


class TestIdentity:
    def test_it_changes_with_the_image_and_not_with_labels(self, tmp_path: Path, s3: Location) -> None:
        path = ome_zarr("0.5", "yx", 0.3)(tmp_path, make_pixels(1, 60, 70))
        place = upload(path, s3)
        before = identity(place)
        assert before.exact and identity(place) == before
        store = store_at(place)
        store.put("labels/zarr.json", b"{}")
        store.put("labels/nuclei/0/c/0/0", b"123")
        assert identity(place) == before
        key = next(one.key for one in store.list("0") if "/c/" in one.key)
        store.put(key, store.get(key)[::-1])
        assert identity(place) != before

    def test_of_a_file(self, tmp_path: Path, s3: Location) -> None:
        place = upload(tiff()(tmp_path, make_pixels(3, 60, 70)), s3)
        before = identity(place)
        store_at(s3).put(place.name, store_at(s3).get(place.name) + b"1")
        assert identity(place) != before

    def test_where_nothing_is_listed(self, tmp_path: Path) -> None:
        pytest.importorskip("obstore")
        path = ome_zarr("0.5", "yx", 0.3)(tmp_path, make_pixels(1, 60, 70))
        with served(tmp_path) as address:
            place = place_of(f"{address}/{path.name}")
            before = identity(place)
            assert identity(place) == before and not before.exact
            metadata = json.loads((path / "zarr.json").read_text())
            (path / "zarr.json").write_text(json.dumps(metadata | {"attributes": {}}))
            assert identity(place) != before


class TestRefused:
    def test_what_is_not_there(self, s3: Location) -> None:
        for name in ("missing.tif", "missing.zarr", "missing"):
            with pytest.raises(ImageError, match="does not exist"):
                open_image(s3 / name)

    def test_what_is_no_image(self, s3: Location) -> None:
        store_at(s3).put("empty.tif", b"")
        store_at(s3).put("text.tif", b"not an image")
        with pytest.raises(ImageError, match="empty file"):
            open_image(s3 / "empty.tif")
        with pytest.raises(ImageError, match="download it"):
            open_image(s3 / "text.tif")
        with pytest.raises(ImageError, match=r"a dataset in a file.*download the file"):
            open_image(s3 / "text.tif:/volume")

    def test_no_bucket(self, s3: Location) -> None:
        with pytest.raises(ImageError, match="no-such-bucket does not exist"):
            open_image(replace(s3, root="no-such-bucket") / "image.tif")

    def test_urls_that_cannot_be_read(self) -> None:
        with pytest.raises(StoreError, match="allowed"):
            open_image("ftp://host/image.tif")

    def test_a_large_file_of_a_server_without_ranges(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("obstore")
        monkeypatch.setattr("tilesegment.images.byte_ranges._MOST_WHOLE", 1000)
        path = tiff()(tmp_path, make_pixels(3, 60, 70))
        with served(tmp_path) as address, pytest.raises(ImageError, match="ignores ranges"):
            open_image(f"{address}/{path.name}")


class TestDamage:
    """What is cut or truncated is an error, and never background."""

    @pytest.mark.parametrize("shards", [None, (128, 128)])
    def test_missing_chunks_are_the_fill_value_and_truncated_ones_are_damage(
        self, shards: tuple[int, int] | None, tmp_path: Path, s3: Location
    ) -> None:
        pixels = noise((1, 256, 256)) | 1
        place = upload(zarr_array("yx", (64, 64), shards=shards)(tmp_path, pixels), s3)
        store = store_at(place)
        keys = sorted(one.key for one in store.list() if one.key.startswith("c/"))
        store.delete([keys[-1]])
        last, first = Region(192, 192, 256, 256), Region(0, 0, 40, 40)
        for size in (0, 1, len(store.get(keys[0])) - 9):
            store.put(keys[0], store.get(keys[0])[:size] if size else b"")
            with open_image(place) as source:
                assert not source.read(last).any()
                with pytest.raises(ImageError, match=keys[0]):
                    source.read(first)
            store.put(keys[0], (tmp_path / "image.zarr" / keys[0]).read_bytes())
        with open_image(place) as source:
            np.testing.assert_array_equal(source.read(first), pixels[:, :40, :40])

    def test_a_truncated_tiff(self, tmp_path: Path, s3: Location) -> None:
        place = upload(tiff(tile=(64, 64))(tmp_path, make_pixels(3, 256, 256)), s3)
        with open_image(place) as source:
            store_at(s3).put(place.name, store_at(s3).get(place.name)[:100_000])
            with pytest.raises(ImageError, match="truncated"):
                source.read(Region(0, 0, 256, 256))
        with pytest.raises(ImageError, match="truncated"):
            open_image(place)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CutProxy]:
    """A proxy before the S3 server."""
    with proxied(s3_server.address) as one:
        yield one


class TestConnections:
    @pytest.fixture
    def place(self, tmp_path: Path, s3: Location, proxy: CutProxy) -> Location:
        """An image whose requests go through the proxy."""
        image = upload(zarr_array("yx", (64, 64))(tmp_path, noise((1, 256, 256))), s3)
        return replace(image, options=(("endpoint", proxy.address), ("region", "us-east-1")))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["cut", "hanging"])
    def test_a_connection_cut_for_ten_seconds_goes_on(
        self, kind: str, place: Location, proxy: CutProxy, tmp_path: Path
    ) -> None:
        with open_image(place) as source:
            proxy.cut() if kind == "cut" else setattr(proxy, "state", kind)
            threading.Timer(10, setattr, (proxy, "state", "open")).start()
            begun = time.monotonic()
            with open_image(tmp_path / "image.zarr") as local:
                whole = Region(0, 0, 256, 256)
                np.testing.assert_array_equal(source.read(whole), local.read(whole))
            assert 9 < time.monotonic() - begun < 32

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["cut", "hanging"])
    def test_a_connection_cut_for_ever_ends_with_one_line(self, kind: str, place: Location, proxy: CutProxy) -> None:
        with open_image(place) as source:
            proxy.cut() if kind == "cut" else setattr(proxy, "state", kind)
            begun = time.monotonic()
            with pytest.raises(ImageError, match="cannot be reached") as caught:
                source.read(Region(0, 0, 256, 256))
            assert time.monotonic() - begun < 35
            assert "damaged" not in str(caught.value) and "\n" not in str(caught.value)

    def test_a_reply_that_is_cut_half_way_is_asked_for_again(
        self, place: Location, proxy: CutProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tilesegment.stores.remote.PAUSES", (0.3, 0.3, 0.3))
        with open_image(place) as source:
            proxy.spoil = 1500
            threading.Timer(0.2, setattr, (proxy, "spoil", None)).start()
            pixels = source.read(Region(0, 0, 256, 256))
        np.testing.assert_array_equal(pixels, noise((1, 256, 256)))
