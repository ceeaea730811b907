"""The server of the viewer: who is answered, what is served, and that nothing is done without bound."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run, runner
from viewing import ask

from tilesegment.errors import ViewError
from tilesegment.viewer import Scene, Server, open_scene
from tilesegment.viewer.cache import TileCache
from tilesegment.viewer.layer import Picture
from tilesegment.viewer.pool import BusyError, Pool
from tilesegment.viewer.security import Names, is_loopback

NAME = "<img src=x onerror=alert(1)>.tif"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / NAME
    tifffile.imwrite(path, np.arange(600 * 700, dtype=np.uint32).reshape(600, 700).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def scene(image: Path) -> Iterator[Scene]:
    with open_scene(image) as scene:
        yield scene


@pytest.fixture(scope="module")
def server(scene: Scene) -> Iterator[Server]:
    with Server(scene) as server:
        yield server


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


TILE = "tile/0/0/0/0/0"


def test_the_page_and_its_files_are_served(server: Server) -> None:
    page = ask(server)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.body.decode())
    assert {"page/style.css", "page/main.js"} <= set(named)
    for name in named:
        if "vendor" not in name:
            assert ask(server, name).status == 200, name


def test_modules_import_only_what_is_served(server: Server) -> None:
    seen, left = set(), ["main.js"]
    while left:
        name = left.pop()
        answer = ask(server, f"page/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8"), name
        seen.add(name)
        imported = re.findall(r'^(?:import|export) [^"]*"\./([^"]+)";', answer.body.decode(), re.MULTILINE)
        left += [one for one in imported if one not in seen]
    assert {"app.js", "canvas.js"} <= seen


@pytest.mark.parametrize("name", ["", "page/main.js", "scene.json", TILE, "value?y=1&x=1", "nothing", "page/nothing"])
def test_every_answer_has_the_headers_that_protect_the_page(server: Server, name: str) -> None:
    headers = ask(server, name).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]
    assert "Tornado" not in headers["Server"]


@pytest.mark.parametrize("name", ["", "page/main.js", "scene.json", TILE, "value?y=1&x=1"])
def test_nothing_is_answered_without_the_token(server: Server, name: str) -> None:
    for token in ("x", server.token[:-1], server.token + "x", server.token[:-1] + "_", ""):
        assert ask(server, name, token=token).status == 404
    assert ask(server, name).status == 200


def test_each_server_has_a_token_of_its_own(scene: Scene) -> None:
    tokens = set()
    for _ in range(3):
        with Server(scene) as server:
            tokens.add(server.token)
    assert len(tokens) == 3
    assert all(len(token) >= 22 for token in tokens)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "10.1.2.3", ""],
)
def test_a_strangers_name_for_this_machine_is_refused(server: Server, host: str) -> None:
    for name in ("", "scene.json", TILE):
        assert ask(server, name, Host=host).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "127.0.0.2", "[::1]:80"])
def test_names_of_the_loopback_are_served_at_any_port(server: Server, host: str) -> None:
    assert ask(server, "scene.json", Host=host).status == 200


def test_pages_of_other_origins_are_refused(server: Server) -> None:
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.port}", "http://127.0.0.1:1"):
        assert ask(server, "scene.json", Origin=origin).status == 403
    assert ask(server, "scene.json", Origin=f"http://127.0.0.1:{server.port}").status == 200


def test_a_public_server_knows_numeric_addresses_and_its_own_name() -> None:
    names = Names("0.0.0.0")
    assert all(map(names.allows_host, ("10.1.2.3:80", "[fe80::1]:80", socket.gethostname(), "localhost")))
    assert not any(map(names.allows_host, ("evil.example", "evil.example:80")))
    assert [is_loopback(one) for one in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.1.2.3", "a")] == [
        *[True] * 3,
        *[False] * 4,
    ]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert ask(server, TILE, method=method, body=b"").status == 405


@pytest.mark.parametrize(
    "name",
    [
        "page/../server.py",
        "page/..%2fserver.py",
        "page/%2e%2e/server.py",
        "page//etc/passwd",
        "page/vendor/../main.js",
        "page/__init__.py",
        "../../etc/passwd",
        "scene.json/x",
        "tile/0/0/0/0",
        "tile/9/0/0/0/0",
        "tile/0/1/0/0/0",
        "tile/0/0/2/0/0",
        "tile/0/0/63/0/0",
        "tile/0/0/0/2/0",
        "tile/0/0/0/0/2",
        "tile/0/0/0/-1/0",
        "tile/0/0/0/9999999/9999999",
        f"tile/0/0/0/0/{'9' * 40}",
    ],
)
def test_what_there_is_not_is_404(server: Server, name: str) -> None:
    assert ask(server, name).status == 404


@pytest.mark.parametrize(
    "name",
    [
        f"{TILE}?colour=1",
        f"{TILE}?channels=x",
        f"{TILE}?channels=1:ffffff:0:255",
        f"{TILE}?channels=0:ffffff:0",
        f"{TILE}?channels=0:ffffff:nan:1",
        f"{TILE}?channels=0:ffffff:1e999:1",
        f"{TILE}?channels=0:ffffff:1e5e5:1",
        f"{TILE}?channels=0:FFFFFF:0:1",
        f"{TILE}?channels=" + ",".join(["0:ffffff:0:1"] * 9),
        f"{TILE}?channels=0:ffffff:0:1&channels=0:ffffff:0:1",
        "value",
        "value?y=1",
        "value?y=a&x=1",
        "value?y=1&x=1&z=1",
        "value?y=1&x=1&w=1",
        "value?y=1e3&x=1",
        f"value?y={'1' * 30}&x=1",
    ],
)
def test_what_is_malformed_is_refused_in_one_line(server: Server, name: str) -> None:
    answer = ask(server, name)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json"
    assert "\n" not in answer.json["error"]


def test_long_requests_are_refused(server: Server) -> None:
    assert ask(server, f"{TILE}?channels={'0' * 3000}").status == 414
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(server, TILE, X_Long="x" * 100_000)
    large = {"Content_Length": str(1 << 40)}
    with contextlib.suppress(http.client.HTTPException, ConnectionError):  # the connection is closed
        assert ask(server, TILE, method="POST", body=b"x", **large).status >= 400
    assert ask(server, TILE).status == 200


def test_a_name_stays_text(server: Server) -> None:
    assert ask(server, "scene.json").json["image"]["name"] == NAME
    assert NAME.encode() not in ask(server).body
    sources = [
        path.read_text() for path in Path(sys.modules[Server.__module__].__file__ or "").parent.glob("page/*.js")
    ]
    assert len(sources) > 3
    assert not [text for text in sources if re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)]


def test_it_listens_on_the_loopback_alone(server: Server) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if address.startswith("127."):
            continue
        with pytest.raises(OSError), socket.create_connection((address, server.port), timeout=2):  # noqa: PT011
            pass


def test_a_port_that_is_taken_is_said(scene: Scene, server: Server) -> None:
    with pytest.raises(ViewError, match=rf"127\.0\.0\.1:{server.port} .*--port"), Server(scene, port=server.port):
        pass
    with pytest.raises(ViewError, match=r"no\.such\.host"), Server(scene, host="no.such.host.invalid"):
        pass


def test_tiles_that_last_are_kept_by_server_and_browser(scene: Scene) -> None:
    with Server(scene) as server:
        first = ask(server, TILE)
        assert "max-age" in first.headers["Cache-Control"]
        assert server.view.cache.bytes > len(first.body)
        before = server.view.cache.bytes
        assert ask(server, f"{TILE}?v=7").body == first.body
        assert server.view.cache.bytes == before


def test_the_cache_is_bounded_and_drops_what_was_not_used() -> None:
    cache = TileCache(most=10_000)
    for number in range(100):
        cache.put(number, Picture(bytes(1000), "image/png"))
        cache.get(0)
        assert cache.bytes <= cache.most
    assert [cache.get(0) is None, cache.get(1) is None, cache.get(99) is None] == [False, True, False]
    cache.put("fleeting", Picture(b"", "image/png", lasting=False))
    assert cache.get("fleeting") is None
    cache.put("huge", Picture(bytes(20_000), "image/png"))
    assert cache.bytes == 0


def blocked(pool: Pool, until: threading.Event) -> list[Future[bool]]:
    """All threads of a pool at work until an event."""
    return [pool.submit(until.wait) for _ in range(4)]


def test_too_many_requests_at_once_are_refused(scene: Scene) -> None:
    until = threading.Event()
    with Server(scene) as server:
        busy = blocked(server.view.pool, until)
        try:
            with pytest.raises(BusyError):
                busy += (server.view.pool.submit(until.wait) for _ in range(1000))
            answer = ask(server, TILE)
            assert (answer.status, "later" in answer.json["error"]) == (503, True)
        finally:
            until.set()
        for one in busy:
            one.result(timeout=20)
        assert ask(server, TILE).status == 200


def test_what_nobody_waits_for_is_dropped(scene: Scene) -> None:
    until = threading.Event()
    with Server(scene) as server:
        busy = blocked(server.view.pool, until)
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(f"GET /{server.token}/{TILE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(0.2)
        time.sleep(0.2)
        until.set()
        for one in busy:
            one.result(timeout=20)
        server.view.pool.submit(lambda: None).result(timeout=20)
        assert server.view.cache.bytes == 0
        assert ask(server, TILE).status == 200


def test_it_stops_while_a_browser_is_connected(scene: Scene) -> None:
    with Server(scene) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", f"/{server.token}/scene.json")
        connection.getresponse().read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=2)
    connection.close()


COMMAND = [sys.executable, "-c", "from tilesegment_cli.main import main; main()", "view", "--no-browser"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_the_command_prints_the_address_and_ends_by_a_signal(image: Path, sent: signal.Signals, code: int) -> None:
    environment = os.environ | {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}
    with subprocess.Popen(
        [*COMMAND, image], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        address = command.stdout.readline().strip()
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/[\w-]{22}/", address)
        assert match, address
        said = ""
        while "Ctrl-C ends it." not in said:
            said += command.stderr.readline()
        with socket.create_connection(("127.0.0.1", int(match[1])), timeout=20):
            command.send_signal(sent)
            out, err = command.communicate(timeout=30)
    assert (command.returncode, out, err.strip()) == (code, "", "Stopped.")
    assert f"ssh -N -L {match[1]}:localhost:{match[1]} " in said


def test_a_command_that_lets_others_in_says_so(image: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--host", "0.0.0.0", image], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        address = command.stdout.readline()
        match = re.fullmatch(rf"http://{re.escape(socket.gethostname())}:(\d+)/([\w-]{{22}})/\n", address)
        assert match, address
        connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=20)
        answers = []
        for host in ("10.1.2.3:80", "evil.example"):
            connection.request("GET", f"/{match[2]}/scene.json", headers={"Host": host})
            answer = connection.getresponse()
            answer.read()
            answers.append(answer.status)
        connection.close()
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=30)
    assert answers == [200, 403]
    assert "Warning: on 0.0.0.0 every machine" in err


def test_the_viewer_starts_without_torch() -> None:
    code = "import sys, tilesegment.viewer, tilesegment_cli.view; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_port_of_the_command_that_is_taken_is_one_line(image: Path, server: Server, run: Run) -> None:
    found = run("view --no-browser --port", str(server.port), str(image))
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert str(server.port) in found.err
