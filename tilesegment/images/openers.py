"""The functions that open images, imported when they are needed: some need packages that an extra installs."""

from collections.abc import Callable
from importlib import import_module

from tilesegment.errors import ImageError
from tilesegment.images.layout import Choices
from tilesegment.images.source import ImageSource

Opener = Callable[[str, Choices], ImageSource]


def opener_of(path: str, opener: str, extra: str = "") -> Opener:
    """Return the function `opener`, as `module:function` of this package.

    Args:
        path: of the image, for the message.
        opener: the module may import what `extra` installs.
        extra: of this package; empty if none is needed.

    Raises:
        ImageError: the extra is not installed.
    """
    module, function = opener.split(":")
    try:
        found: Opener = getattr(import_module(f"tilesegment.images.{module}"), function)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise ImageError(
            f'{path} needs {error.name}, which is not installed: pip install "tilesegment[{extra}]"'
        ) from None
    return found
