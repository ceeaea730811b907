"""The store: one contract on a disk, in memory and on a real S3 server; URLs; failures in words."""

import http.server
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import CREDENTIALS, S3Server, is_installed

from tilesegment.errors import StoreError
from tilesegment.stores import Location, Place, Store, is_url, place_of, store_at, store_options
from tilesegment.stores.location import SCHEMES

_NAMES = itertools.count()
ODD = ("a b/ü.bin", "c/0/0", "a+b=c&d", "100%", "hash#mark", "what?", "ü/日本", "deep/er/and/deeper", ".zgroup", "~x")


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind, not at the root of what holds it."""
    if request.param == "disk":
        return tmp_path / "made later" / "below"
    if request.param == "memory":
        return Location("memory", f"test {next(_NAMES)}", "some/where")
    bucket: Location = request.getfixturevalue("s3")
    return bucket / "some" / "where"


@pytest.fixture
def store(place: Place) -> Store:
    """A store of each kind."""
    return store_at(place)


def keys(store: Store, prefix: str = "") -> list[str]:
    """What is stored, sorted."""
    return sorted(entry.key for entry in store.list(prefix))


class TestContract:
    def test_what_is_put_is_got(self, store: Store) -> None:
        for number, key in enumerate(ODD):
            store.put(key, bytes([number]) * number)
        assert [store.get(key) for key in ODD] == [bytes([number]) * number for number in range(len(ODD))]
        assert keys(store) == sorted(ODD)
        assert {entry.key: entry.size for entry in store.list()} == {key: size for size, key in enumerate(ODD)}

    def test_an_object_is_replaced_and_its_tag_changes(self, store: Store) -> None:
        store.put("key", b"first")
        (before,) = store.list()
        assert before == store.head("key")
        store.put("key", b"other")
        (after,) = store.list()
        assert store.get("key") == b"other"
        assert (before.key, before.size) == (after.key, after.size) and before.tag != after.tag

    def test_put_if_absent(self, store: Store) -> None:
        assert store.put_if_absent("claims/0", b"mine")
        assert not store.put_if_absent("claims/0", b"yours")
        assert store.get("claims/0") == b"mine"
        store.delete(["claims/0"])
        assert store.put_if_absent("claims/0", b"yours")
        assert keys(store) == ["claims/0"]

    def test_of_racing_writers_one_wins(self, place: Place) -> None:
        stores, barrier = [store_at(place) for _ in range(16)], threading.Barrier(16)

        def claim(number: int) -> bool:
            barrier.wait()
            return stores[number].put_if_absent("claim", b"writer %d" % number)

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(claim, range(16)))
        assert sum(won) == 1
        assert stores[0].get("claim") == b"writer %d" % won.index(True)

    def test_ranges(self, store: Store) -> None:
        content = os.urandom(1 << 20)
        store.put("object", content)
        spans = [(5, 9), (0, 1), (1 << 19, (1 << 19) + 7), (3, 3), (len(content) - 2, len(content)), (6, 8)]
        assert store.get_ranges("object", spans) == [content[start:stop] for start, stop in spans]
        assert store.get_ranges("object", [(len(content) - 3, len(content) + 50)]) == [content[-3:]]
        assert store.get_ranges("object", []) == []
        beyond = len(content) + 10
        assert store.get_ranges("object", [(beyond, beyond + 5), (2, 4)]) == [b"", content[2:4]]
        assert store.get_end("object", 7) == content[-7:]
        assert store.bytes_read < len(content)
        store.put("short", b"12")
        assert store.get_end("short", 7) == b"12" and store.get_end("short", 0) == b""
        store.put("empty", b"")
        assert store.get_ranges("empty", [(0, 4)]) == [b""] and store.get("empty") == b""

    def test_a_missing_object(self, store: Store) -> None:
        store.put("folder/key", b"1")
        for key in ("missing", "folder", "folder/key/below"):
            with pytest.raises(FileNotFoundError):
                store.get(key)
            with pytest.raises(FileNotFoundError):
                store.get_ranges(key, [(0, 1)])
            with pytest.raises(FileNotFoundError):
                store.get_end(key, 1)
            with pytest.raises(FileNotFoundError):
                store.head(key)
        store.delete(["missing"])
        assert keys(store) == ["folder/key"]

    def test_nothing_is_there_yet(self, store: Store) -> None:
        assert keys(store) == [] and list(store.folders()) == []
        store.delete([])
        with pytest.raises(FileNotFoundError):
            store.get("missing")

    def test_listing_knows_folders(self, store: Store) -> None:
        for key in ("a/0/x", "a/1/x", "ab/x", "b", "a/y"):
            store.put(key, b"")
        assert keys(store, "a") == keys(store, "a/") == ["a/0/x", "a/1/x", "a/y"]
        assert keys(store, "a/0") == ["a/0/x"] and keys(store, "none") == []
        assert list(store.folders()) == ["a", "ab"]
        assert list(store.folders("a")) == ["0", "1"]
        assert list(store.folders("b")) == []

    def test_many_objects_are_listed_and_deleted(self, store: Store) -> None:
        """A server lists 1,000 on a page and deletes 1,000 with a request."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.put(f"many/{number}", b""), range(1005)))
        assert keys(store, "many") == sorted(f"many/{number}" for number in range(1005))
        store.delete(f"many/{number}" for number in range(1004))
        assert keys(store) == ["many/1004"]

    def test_another_store_of_the_place_sees_the_same(self, place: Place, store: Store) -> None:
        store.put("folder/key", b"1")
        assert store_at(place / "folder").get("key") == b"1"
        assert keys(store_at(place.parent)) == [f"{place.name}/folder/key"]

    def test_requests_and_bytes_are_counted(self, store: Store) -> None:
        store.put("key", bytes(1000))
        begun = store.requests
        store.get("key")
        store.get_ranges("key", [(0, 10), (20, 30)])
        assert store.requests == begun + 2
        assert 1020 <= store.bytes_read <= 1030


class TestLocation:
    def test_it_is_like_a_path(self) -> None:
        for url in ("s3://bucket/folder/image.ome.zarr", "http://host:80/folder/image.ome.zarr"):
            place, path = place_of(url), Path("/folder/image.ome.zarr")
            assert isinstance(place, Location)
            assert str(place) == url
            assert (place.name, place.stem, place.suffix) == (path.name, path.stem, path.suffix)
            assert place.parent.key == "folder" and place.parent.parent.key == ""
            assert place.parent.parent.parent == place.parent.parent
            assert place / "0" / "c/1" == place_of(url + "/0//c/./1/")
            assert place.with_name("other") == place.parent / "other"
            assert place.with_suffix(".json").key == path.with_suffix(".json").as_posix()[1:]
            assert pickle.loads(pickle.dumps(place)) == place

    def test_http_is_percent_encoded_and_buckets_are_not(self) -> None:
        assert place_of("https://host/a%20b") == Location("https", "host", "a b")
        assert str(place_of("https://host/a%20b")) == "https://host/a%20b"
        assert place_of("s3://bucket/a%20b?x#y") == Location("s3", "bucket", "a%20b?x#y")

    def test_paths(self, tmp_path: Path) -> None:
        assert place_of("image.tif") == Path("image.tif") and place_of(tmp_path) == tmp_path
        assert place_of("file:///tmp/a%20b") == place_of("FILE://localhost/tmp/a%20b") == Path("/tmp/a b")
        assert not is_url("image.tif") and not is_url(tmp_path)
        assert all(is_url(url) for url in ("s3://b/k", "file:///x", "ftp://x", Location("s3", "b", "k")))

    def test_options_travel_and_do_not_show(self) -> None:
        options = store_options(["region=eu-central-1", "endpoint=http://localhost:9000", "anonymous=true"])
        place = place_of("s3://bucket/key", options)
        assert isinstance(place, Location)
        assert (place / "0").options == options == tuple(sorted(options))
        assert place_of(place) == place and "localhost" not in str(place)
        assert place_of("image.tif", options) == Path("image.tif")

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("ftp://host/x", ", ".join(SCHEMES)),
            ("s3://", "bucket"),
            ("s3:///key", "bucket"),
            ("https://me:hidden@host/x", "environment"),
            ("ftp://me:hidden@host/x", "allowed"),
            ("https://me:hidden@host/x?y", "query"),
            ("https://host/x?X-Amz-Signature=hidden", "query"),
            ("file://host/x", "file:///"),
            ("s3://bucket/a/../b", "upwards"),
        ],
    )
    def test_bad_urls(self, url: str, words: str) -> None:
        with pytest.raises(StoreError) as caught:
            place_of(url)
        assert words in str(caught.value) and "hidden" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("colour=red", "anonymous"),
            ("endpoint", "endpoint="),
            ("region=", "region="),
            ("secret_access_key=hidden", "environment"),
            ("aws_session_token=hidden", "environment"),
            ("sas=hidden", "environment"),
            ("password", "environment"),
            ("anonymous=yes", "true or false"),
            ("endpoint=localhost:9000", "http://localhost:9000"),
            ("endpoint=http://me:hidden@host", "environment"),
        ],
    )
    def test_bad_options(self, text: str, words: str) -> None:
        with pytest.raises(StoreError) as caught:
            store_options([text])
        assert words in str(caught.value) and "hidden" not in str(caught.value)


def said(place: Location, *, listing: bool = False) -> str:
    """What the store of a place says when it fails to read, which is one line without a secret."""
    with pytest.raises(StoreError) as caught:
        list(store_at(place).list()) if listing else store_at(place).get("key")
    text = str(caught.value)
    assert "\n" not in text and str(place.root) in text
    for secret in CREDENTIALS.values():
        assert secret not in text and secret not in repr(caught.value)
    return text


@contextmanager
def answering(status: int, body: bytes = b"", length: int | None = None) -> Iterator[str]:
    """Yield the address of a server that answers every request alike; by default with all of `body`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat requests after pauses of a moment."""
    if is_installed():
        monkeypatch.setattr("tilesegment.stores.remote.PAUSES", (0.01, 0.02, 0.03))


@pytest.mark.usefixtures("impatient")
class TestFailures:
    def test_no_such_bucket_is_not_a_missing_object(self, s3: Location) -> None:
        nowhere = replace(s3, root="no-such-bucket")
        assert "does not exist" in said(nowhere) and "does not exist" in said(nowhere, listing=True)
        with pytest.raises(StoreError, match="no-such-bucket does not exist"):
            store_at(nowhere).put_if_absent("key", b"1")

    def test_access_denied(self, s3: Location, s3_server: S3Server) -> None:
        store_at(s3).put("key", b"1")
        s3_server.check_credentials(True)
        try:
            assert "access to" in said(s3) and "access to" in said(s3, listing=True)
            anonymous = replace(s3, options=(*s3.options, ("anonymous", "true")))
            assert "AWS_ACCESS_KEY_ID" in said(anonymous)
        finally:
            s3_server.check_credentials(False)
        assert store_at(s3).get("key") == b"1"

    def test_access_denied_half_way(self, s3: Location, s3_server: S3Server) -> None:
        store = store_at(s3)
        store.put("key", b"1")
        s3_server.set_policy(s3, "Deny", "s3:PutObject")
        assert store.get("key") == b"1"
        with pytest.raises(StoreError, match=f"access to {s3}/other is denied"):
            store.put("other", b"1")

    def test_no_credentials(self, s3: Location, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        s3_server.set_policy(s3, "Allow")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        # the address at which a cloud's own machine would find some, on which nothing listens here
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1/169.254.169.254")
        assert "AWS_ACCESS_KEY_ID" in said(s3) and "anonymous=true" in said(s3)
        public = replace(s3, options=(*s3.options, ("anonymous", "true")))
        store_at(public).put("key", b"1")
        assert store_at(public).get("key") == b"1"

    @pytest.mark.parametrize(
        ("status", "code", "words"),
        [
            (301, "<Code>PermanentRedirect</Code>", "region=NAME"),
            (400, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region>", "region=eu-west-3"),
            (503, "<Code>SlowDown</Code>", "503 (SlowDown)"),
            (403, "<Code>AccessDenied</Code>", "AccessDenied"),
            (418, "a-secret-that-must-not-be-shown", "418"),
        ],
    )
    def test_what_servers_answer(self, s3: Location, status: int, code: str, words: str) -> None:
        with answering(status, f"<Error>{code}</Error>".encode()) as address:
            assert words in said(replace(s3, options=(("endpoint", address),)))

    def test_a_reply_that_ends_early_is_no_object(self, s3: Location) -> None:
        with answering(200, b"half", 8) as address:
            place = replace(s3, options=(("endpoint", address),))
            assert "was cut" in said(place)
            store = store_at(place)
            with pytest.raises(StoreError):
                store.get("key")
            assert store.requests == 4

    def test_nobody_answers(self, s3: Location) -> None:
        assert "connection refused" in said(replace(s3, options=(("endpoint", "http://127.0.0.1:1"),)))

    def test_plain_http_reads_and_does_not_list(self, s3: Location, s3_server: S3Server) -> None:
        store_at(s3).put("a folder/key", b"12345")
        s3_server.set_policy(s3, "Allow")
        store = store_at(place_of(f"{s3_server.address}/{s3.root}/a%20folder"))
        assert store.get("key") == b"12345" and store.get_ranges("key", [(1, 3)]) == [b"23"]
        with pytest.raises(FileNotFoundError):
            store.get("missing")
        with pytest.raises(io.UnsupportedOperation, match="cannot be listed"):
            list(store.list())

    def test_a_server_without_ranges(self, s3: Location) -> None:
        with answering(200, b"content") as address:
            store = store_at(place_of(address))
            assert store.get("key") == b"content"
            with pytest.raises(io.UnsupportedOperation, match="only sends whole files"):
                store.get_ranges("key", [(0, 3)])

    def test_azure_needs_an_account(self, s3: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
        with pytest.raises(StoreError, match="account=NAME"):
            store_at(place_of("az://container/key"))


def test_without_obstore_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from tilesegment.stores import place_of, store_at\n"
        "store_at(place_of('memory://x')), store_at(place_of('x'))\n"
        "try: store_at(place_of('s3://bucket/key'))\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "tilesegment[remote]"' in done.stdout and "s3://bucket/key" in done.stdout
