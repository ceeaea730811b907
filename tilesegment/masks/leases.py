"""Claims in a store, which has no locks: objects that their owners renew while they live.

A claim called NAME is the object `NAME.EPOCH.json`, put only if it is absent, with the owner's process and the time.
The owner renews it in a thread. It is void once its process is known to be dead, which others on its machine see at
once, or once it was not renewed for `LEASE` seconds. Who takes over a void claim puts the next epoch: of several one
succeeds, and nobody deletes what another may just have renewed.

Clocks of machines may differ by less than `LEASE`. If they differ by more, or a process was suspended for longer, two
processes may hold one claim: they do work twice and store the same bytes.
"""

import json
import os
import platform
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tilesegment.stores import Store

LEASE = 60.0  # seconds
_BEAT = 15.0  # seconds between two renewals
_PATIENCE = 1.0  # seconds to wait for a claim: beginning or ending a mask takes a moment, writing blocks takes long
_PAUSE = 0.2  # seconds
_KEY = re.compile(r"([a-z0-9-]+)\.(\d{1,9})\.json")


class HeldError(Exception):
    """Another process has the claim."""


@dataclass(frozen=True)
class Claim:
    """A claim that is stored.

    Attributes:
        name, epoch: of its object.
        host, pid: of its owner.
        seen: when the owner renewed it last, seconds since 1970 by the owner's clock.
    """

    name: str
    epoch: int
    host: str
    pid: int
    seen: float

    @property
    def is_local(self) -> bool:
        """Whether the owner's process can be seen from here."""
        return self.host == _host()

    @property
    def is_alive(self) -> bool:
        """Whether the owner may still be at work."""
        if abs(time.time() - self.seen) > LEASE:
            return False
        return not self.is_local or _runs(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition(' ')[0]}"


@contextmanager
def leased(store: Store, name: str, rivals: Callable[[str], bool], *, wait: bool = False) -> Iterator[None]:
    """Hold the claim `name` until the context or the process ends.

    Args:
        store: of the claims of one mask.
        name: of letters, digits and hyphens.
        rivals: whether no claim of that name may be held by others at the same time; of `name` itself none may.
        wait: as long as it takes. Otherwise only until it is known that the other's process lives.

    Raises:
        HeldError: another process holds it, or a rival.
        OSError: the store does not do what is asked.
    """
    key = _take(store, name, rivals, wait)
    released = threading.Event()
    beating = threading.Thread(target=_renew, args=(store, key, released), daemon=True, name=f"claim {name}")
    beating.start()
    try:
        yield
    finally:
        released.set()
        beating.join()
        with suppress(OSError):  # void in a minute
            store.delete([key])


def _take(store: Store, name: str, rivals: Callable[[str], bool], wait: bool) -> str:
    """Return the key of the claim once it is taken."""
    begun, first = time.monotonic(), dict[str, float]()
    while True:
        claims = _claims(store)
        held = [one for one in claims.values() if one.is_alive and (one.name == name or rivals(one.name))]
        if not held:
            mine = _key(name, claims[name].epoch + 1 if name in claims else 1)
            if not store.put_if_absent(mine, _sign()):
                continue
            # a rival may have been put at the same moment
            held = [one for one in _claims(store).values() if one.is_alive and one.name != name and rivals(one.name)]
            if not held:
                store.delete(_key(name, claims[name].epoch) for _ in range(name in claims))
                return mine
            store.delete([mine])
        for one in held:
            is_seen = one.is_local or one.seen != first.setdefault(f"{one.name}.{one.epoch}", one.seen)
            if is_seen and not wait and time.monotonic() - begun > _PATIENCE:
                raise HeldError(str(one))
        time.sleep(random.uniform(_PAUSE / 2, _PAUSE))  # two rivals must not meet again and again


def _renew(store: Store, key: str, released: threading.Event) -> None:
    """Renew a claim until it is released, or another process took it over, or the mask is gone."""
    while not released.wait(_BEAT):
        with suppress(OSError):  # the next time
            name, epoch = _parsed(key)
            if not any(one.name == name and one.epoch == epoch for one in _claims(store).values()):
                return
            store.put(key, _sign())


def _claims(store: Store) -> dict[str, Claim]:
    """Return the claims by name, of each the latest epoch."""
    latest: dict[str, int] = {}
    for entry in store.list():
        if _KEY.fullmatch(entry.key):
            name, epoch = _parsed(entry.key)
            latest[name] = max(epoch, latest.get(name, 0))
    found = {name: _read(store, name, epoch) for name, epoch in latest.items()}
    return {name: one for name, one in found.items() if one is not None}


def _read(store: Store, name: str, epoch: int) -> Claim | None:
    """Return a claim; None if it was just released. A damaged one is void."""
    try:
        said: Any = json.loads(store.get(_key(name, epoch)))
        return Claim(name, epoch, str(said["host"]), int(said["pid"]), float(said["seen"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError):
        return Claim(name, epoch, "", 0, 0.0)


def _sign() -> bytes:
    """Return a claim of this process, unlike any other."""
    said = {"host": _host(), "pid": os.getpid(), "seen": round(time.time(), 3), "token": secrets.token_hex(8)}
    return json.dumps(said).encode()


def _key(name: str, epoch: int) -> str:
    return f"{name}.{epoch}.json"


def _parsed(key: str) -> tuple[str, int]:
    match = _KEY.fullmatch(key)
    assert match is not None
    return match[1], int(match[2])


def _host() -> str:
    """Return what processes have in common that see each other by their numbers: machine and, in containers, more."""
    space = ""
    with suppress(OSError):
        space = f" {os.readlink('/proc/self/ns/pid')}"
    return platform.node() + space


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
