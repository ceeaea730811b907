"""Places of images and masks: paths on a disk, and URLs that can be handled like paths.

Credentials are no part of a place: they come from the environment of the process that opens it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from tilesegment.errors import StoreError

SCHEMES = ("s3", "gs", "az", "http", "https", "memory")
OPTIONS = {
    "account": "name of the Azure storage account",
    "anonymous": "true: requests are not signed, for public data",
    "endpoint": "address of another server than the cloud's own, as http://localhost:9000",
    "region": "region of an S3 bucket, as eu-central-1",
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"key|secret|token|password|sas|credential|signature", re.IGNORECASE)

Options: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Location:
    """A URL that is handled like a `pathlib` path; `str` gives the URL.

    Attributes:
        scheme: one of `SCHEMES`.
        root: the bucket or container, or the host (with its port), or the name of a store in memory.
        key: without slashes at its ends; as stored, that is not percent-encoded.
        options: how the store is reached, sorted, see `OPTIONS`; never a secret.
    """

    scheme: str
    root: str
    key: str
    options: Options = ()

    def __str__(self) -> str:
        key = quote(self.key) if self.scheme.startswith("http") else self.key
        return f"{self.scheme}://{self.root}" + (f"/{key}" if key else "")

    def __truediv__(self, name: str) -> "Location":
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise StoreError(f"{self}/{name} leads upwards (..), which a URL here must not: give the place itself")
        return replace(self, key="/".join([*([self.key] if self.key else []), *parts]))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """`name` without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The suffix of `name`, with its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "Location":
        """What this is in; the root is in itself."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "Location":
        """Return the place of another `name` beside this one."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Location":
        """Return the place of the name with another suffix."""
        return self.with_name(self.stem + suffix)


Place: TypeAlias = Path | Location


def is_url(text: object) -> bool:
    """Return whether a text is a URL, of whatever scheme, rather than a path."""
    return isinstance(text, Location) or (isinstance(text, str) and _URL.match(text) is not None)


def place_of(path: str | Path | Location, options: Iterable[tuple[str, str]] = ()) -> Place:
    """Return the place that `path` names: a path, or the location of a URL. A file:// URL becomes a path.

    `options` apply to locations, and take the place of those that it has.

    Raises:
        StoreError: the scheme is unknown, a part is missing, or there are credentials in the URL.
    """
    if isinstance(path, Location):
        return replace(path, options=tuple(sorted(dict(options).items()))) if options else path
    if isinstance(path, Path) or not (match := _URL.match(path)):
        return Path(path)
    scheme, rest = match[1].lower(), path[match.end() :]
    if scheme == "file":
        host, slash, below = rest.partition("/")
        if host not in ("", "localhost"):
            raise StoreError(f"{path} names the host {host}: write file:///folder/name for a file of this machine")
        return Path(unquote(slash + below))
    if scheme not in SCHEMES:
        raise StoreError(f"{_without_user(path)} is of kind {scheme}://; allowed are {', '.join(SCHEMES)} and file")
    root, _, key = rest.partition("/")
    if scheme.startswith("http"):
        key = _key_of_http(path)
    if "@" in root:
        raise StoreError(f"{_without_user(path)} holds credentials: leave them out, they come from the environment")
    if not root:
        raise StoreError(f"{path} lacks its bucket or host: write {scheme}://BUCKET/NAME")
    return Location(scheme, root, "", tuple(sorted(dict(options).items()))) / key


def resolved(path: str | Place) -> Place:
    """Return a place without links; of URLs options do not matter."""
    place = place_of(path)
    return place.resolve() if isinstance(place, Path) else replace(place, options=())


def is_in(place: Place, folder: Place) -> bool:
    """Return whether a place lies in another one, at any depth."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return folder in place.parents
    return str(place).startswith(f"{folder}/")


def _key_of_http(url: str) -> str:
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        shown = _without_user(url.partition("?")[0].partition("#")[0])
        raise StoreError(f"{shown} has a query (?) or a fragment (#), which are not supported: leave them out")
    return unquote(parts.path)


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)


def store_options(given: Iterable[str]) -> Options:
    """Return the options given as texts `key=value`, sorted.

    Raises:
        StoreError: one is unknown, is a secret, or has a value that is not allowed.
    """
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if key not in OPTIONS and _SECRET.search(key):
            raise StoreError(
                f"--store-option {key} is a secret: credentials come from the environment, as AWS_SECRET_ACCESS_KEY"
            )
        if key not in OPTIONS or not equals or not value:
            allowed = "; ".join(f"{name}={meaning}" for name, meaning in OPTIONS.items())
            raise StoreError(f"--store-option {key if _SECRET.search(text) else text!r} is unknown; allowed: {allowed}")
        if key == "anonymous" and value not in ("true", "false"):
            raise StoreError(f"--store-option anonymous={value}: give true or false")
        if key == "endpoint":
            _check_endpoint(value)
        found[key] = value
    return tuple(sorted(found.items()))


def _check_endpoint(value: str) -> None:
    parts = urlsplit(value)
    if parts.username is not None or parts.query:
        raise StoreError("--store-option endpoint holds credentials: leave them out, they come from the environment")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise StoreError(f"--store-option endpoint={value}: give an address such as http://localhost:9000")
