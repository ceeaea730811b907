"""The errors that users meet, as one tree.

TilesegmentError
├── ImageError      the input cannot be read as an image, or not in the way requested
├── MaskError       the output cannot be created, written or read
├── ModelError      a model file is damaged, foreign or does not fit the image
├── StoreError      a URL or its options are wrong, or the server does not do what is asked; an OSError too
├── PlanError       the settings contradict each other, the network or the image
├── DeviceError     the device or precision is unavailable here
├── DataError       a labelled data set cannot be trained on
├── ViewError       what is asked of the viewer is not there, or the page cannot be served
├── ClusterError    the cluster cannot be reached, or its workers stop unexpectedly
├── FinishedError   nothing is left to do: the training run or the mask is already complete
└── StoppedError    the run was asked to stop early; it can be resumed

A message is one line: what was given, what is allowed, what to do. It names settings as the command line does: the
argument `border_weight` of a function is `--border-weight`. Our own mistakes are `AssertionError`.
"""


class TilesegmentError(Exception):
    """Root of all errors that users can cause and fix. The message is one line, whatever it quotes from a file."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


def one_line(text: object, longest: int | None = None) -> str:
    """Put a text or an error on one line: without control characters, cut to `longest` characters, never empty."""
    said = " ".join(str(text).splitlines())[:longest] or type(text).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def option(setting: str) -> str:
    """Return the name of a setting on the command line: `border_weight` is `--border-weight`."""
    return "--" + setting.replace("_", "-")


class ImageError(TilesegmentError):
    """The input cannot be read as an image, or not in the way requested."""


class MaskError(TilesegmentError):
    """The output cannot be created, written or read."""


class StoreError(TilesegmentError, OSError):
    """A URL or its options are wrong, or the server does not do what is asked."""


class DeniedError(StoreError, PermissionError):
    """The server denies access; some do so for what does not exist, too."""


class ModelError(TilesegmentError):
    """A model file is damaged, foreign or does not fit the image."""


class PlanError(TilesegmentError):
    """The settings contradict each other, the network or the image."""


class DeviceError(TilesegmentError):
    """The device or precision is unavailable here."""


class DataError(TilesegmentError):
    """A labelled data set cannot be trained on."""


class ViewError(TilesegmentError):
    """What is asked of the viewer is not there, or the page cannot be served."""


class FinishedError(TilesegmentError):
    """Nothing is left to do: the training run or the mask is complete. The command line says so and exits with 0."""


class ClusterError(TilesegmentError):
    """The cluster cannot be reached, or its workers stop unexpectedly."""


class StoppedError(TilesegmentError):
    """The run was asked to stop early; it can be resumed."""
