"""The records of a run for TensorBoard, where it is installed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tilesegment.errors import DataError, PlanError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from tilesegment.training.loop import Record


@contextmanager
def event_writer(folder: str | Path | None) -> Iterator[Callable[["Record"], None]]:
    """What to call with each record of a run; it does nothing where `folder` is None.

    Raises:
        PlanError: TensorBoard is not installed.
        DataError: the folder cannot be written.
    """
    if folder is None:
        yield lambda record: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PlanError("tensorboard is not installed; pip install 'tilesegment[tensorboard]'") from None
    try:
        opened = SummaryWriter(str(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror}); choose another --tensorboard") from error
    with opened as writer:
        yield lambda record: _write(writer, record)


def _write(writer: "SummaryWriter", record: "Record") -> None:
    values = {"loss": record.loss, "rate": record.rate}
    if record.scores is not None:
        names = ("value", "accuracy", "miou", "v_rand", "v_info")
        known = {f"held out/{name}": getattr(record.scores, name) for name in names}
        values |= {name: value for name, value in known.items() if value is not None}
    for name, value in values.items():
        writer.add_scalar(name, value, record.step)
