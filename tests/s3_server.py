"""A real S3 server on this machine: moto's, in a process of its own."""

import importlib.util
import itertools
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilesegment.stores import Location, store_at

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "a-secret-that-must-not-be-shown"}
_NUMBERS = itertools.count()


class S3Server:
    """A running server.

    Attributes:
        address: as http://127.0.0.1:PORT.
        options: with which a `Location` reaches it, to which the environment adds `CREDENTIALS`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.options = (("endpoint", address), ("region", "us-east-1"))

    def bucket(self) -> Location:
        """Create an empty bucket."""
        name = f"bucket-{next(_NUMBERS)}"
        self.request("PUT", f"/{name}")
        return Location("s3", name, "", self.options)

    def set_policy(self, bucket: Location, effect: str, action: str = "s3:*") -> None:
        """Allow or deny (`effect`) an action on the objects of a bucket to everybody, with credentials or without."""
        rule = {"Effect": effect, "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{bucket.root}/*"}
        policy = {"Version": "2012-10-17", "Statement": [rule]}
        self.request("PUT", f"/{bucket.root}?policy", json.dumps(policy).encode())

    def check_credentials(self, check: bool) -> None:
        """Let the server refuse unknown credentials (all are unknown), or accept any, as at the start."""
        self.request("POST", "/moto-api/reset-auth", b"0" if check else b"inf")

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """Send an unsigned request."""
        headers = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(asked, timeout=10) as reply:
            content: bytes = reply.read()
        return content


def upload(path: Path, place: Location) -> Location:
    """Copy a file or a folder to `place`, below which it keeps its name; return where it is."""
    store = store_at(place)
    for one in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        store.put(one.relative_to(path.parent).as_posix(), one.read_bytes())
    return place / path.name


def is_installed() -> bool:
    """Return whether the server can be started, and a client of it."""
    return all(importlib.util.find_spec(name) for name in ("moto", "flask", "flask_cors", "obstore"))


@contextmanager
def running() -> Iterator[S3Server]:
    """Start a server on a free port; kill it in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        server = S3Server(f"http://127.0.0.1:{port}")
        _wait(server, process)
        yield server
    finally:
        process.kill()
        process.wait()


def _wait(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            server.request("GET", "/moto-api/data.json")
            return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.05)
