"""Which store serves a place."""

from pathlib import Path

from tilesegment.errors import StoreError
from tilesegment.stores.local import LocalStore
from tilesegment.stores.location import Place
from tilesegment.stores.memory import MemoryStore
from tilesegment.stores.store import Store


def store_at(place: Place) -> Store:
    """Return the store of the objects below `place`. Nothing is asked of a server yet.

    Raises:
        StoreError: it is on a server, and obstore is not installed or refuses the options.
    """
    if isinstance(place, Path):
        return LocalStore(place)
    if place.scheme == "memory":
        return MemoryStore(place)
    try:
        from tilesegment.stores.remote import RemoteStore
    except ImportError as error:
        raise StoreError(f'{place} needs obstore: pip install "tilesegment[remote]"') from error
    return RemoteStore(place)
