"""Encoded tiles that are kept: those used last, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from tilesegment.viewer.layer import Picture

MOST = 64 << 20  # bytes
_EACH = 512  # bytes of memory that an entry takes besides its picture, about


class TileCache:
    """The pictures used last; safe in several threads.

    Attributes:
        most: bytes that are kept at most.
        bytes: that are kept now.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[Hashable, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Picture | None:
        """Return a picture; None if it is not kept."""
        with self._lock:
            picture = self._kept.get(key)
            if picture is not None:
                self._kept.move_to_end(key)
            return picture

    def put(self, key: Hashable, picture: Picture) -> None:
        """Keep a picture that lasts, and drop those unused for longest beyond the limit."""
        if not picture.lasting:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self.bytes -= 0 if before is None else len(before.data) + _EACH
            self._kept[key] = picture
            self.bytes += len(picture.data) + _EACH
            while self.bytes > self.most:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= len(dropped.data) + _EACH
