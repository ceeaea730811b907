"""A TCP proxy that delays replies, cuts all connections or lets them hang."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CutProxy:
    """Passes connections on to a server.

    Attributes:
        address: where it listens, as http://127.0.0.1:PORT.
        delay: seconds by which the first bytes after a change of direction are late, that is every reply.
        state: `open`; `cut`, connections are closed at once; `hanging`, nothing is passed on.
        spoil: bytes of a connection's replies after which it is closed; None for none.
        connections: how many came.
    """

    def __init__(self, target: tuple[str, int], delay: float = 0.0) -> None:
        self.delay, self.state, self.spoil = delay, "open", None
        self.connections = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    state: str
    spoil: int | None

    def cut(self) -> None:
        """Close all connections, and those to come."""
        self.state = "cut"
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.state == "cut":
                client.close()
                continue
            with suppress(OSError):
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                asked = threading.Event()
                threading.Thread(target=self._pass, args=(client, server, asked, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, asked, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, asked: threading.Event, is_reply: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                while self.state == "hanging":
                    time.sleep(0.02)
                if not is_reply:
                    asked.set()
                elif asked.is_set():
                    asked.clear()
                    time.sleep(self.delay)
                if is_reply and self.spoil is not None and passed + len(data) > self.spoil:
                    target.sendall(data[: max(self.spoil - passed, 0)])
                    break
                passed += len(data)
                target.sendall(data)
        for one in (source, target):
            self._open.discard(one)
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def proxied(address: str, delay: float = 0.0) -> Iterator[CutProxy]:
    """Start a proxy of the server at `address`, as http://HOST:PORT."""
    host, port = address.removeprefix("http://").split(":")
    proxy = CutProxy((host, int(port)), delay)
    try:
        yield proxy
    finally:
        proxy.close()
