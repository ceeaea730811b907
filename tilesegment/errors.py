"""What can go wrong through no fault of ours, as one tree.

TilesegmentError
├── ImageError      the input cannot be read as an image, or not in the way that was asked for
├── MaskError       the output cannot be created, written or read
├── ModelError      a model file is damaged, foreign or does not fit the image
├── PlanError       the settings contradict each other, the network or the image
├── DeviceError     the device or precision is not to be had here
├── DataError       a labelled data set cannot be trained on
├── ClusterError    the cluster cannot be reached, or its workers end where they should not
├── FinishedError   there is nothing left to do: a training run to resume, or a mask to finish, is complete
└── StoppedError    the run was asked to end early; it can be gone on with

A message is one line: what was given, what is allowed, what to do. It names settings as the command line does: the
argument `border_weight` of a function is `--border-weight`. Our own mistakes are `AssertionError`.
"""


class TilesegmentError(Exception):
    """Root of every error that a user can cause and mend. Its message is one line, whatever it quotes of a file."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


def one_line(text: object, longest: int | None = None) -> str:
    """What `text`, or an error, says: on one line, without control characters, cut to `longest`, and never empty."""
    said = " ".join(str(text).splitlines())[:longest] or type(text).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in said)


def option(setting: str) -> str:
    """A setting by its name on the command line: `border_weight` is `--border-weight`."""
    return "--" + setting.replace("_", "-")


class ImageError(TilesegmentError):
    """The input cannot be read as an image, or not in the way that was asked for."""


class MaskError(TilesegmentError):
    """The output cannot be created, written or read."""


class ModelError(TilesegmentError):
    """A model file is damaged, foreign or does not fit the image."""


class PlanError(TilesegmentError):
    """The settings contradict each other, the network or the image."""


class DeviceError(TilesegmentError):
    """The device or precision is not to be had here."""


class DataError(TilesegmentError):
    """A labelled data set cannot be trained on."""


class FinishedError(TilesegmentError):
    """A training run to resume, or a mask to finish, is complete: the command line says so and exits with 0."""


class ClusterError(TilesegmentError):
    """The cluster cannot be reached, or its workers end where they should not."""


class StoppedError(TilesegmentError):
    """The run was asked to end early; it can be gone on with."""
