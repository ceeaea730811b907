"""Paths of datasets in files: `file.h5:/volume` is the dataset `/volume` of `file.h5`."""

import os
import re
from pathlib import Path


def split_dataset(path: str) -> tuple[str, str]:
    """Return the file and the dataset that a path names; the path itself and "" if it names no dataset.

    What exists under the whole name is no dataset, and neither is anything behind a drive or an address: what comes
    before `:/` has to be a file.
    """
    if not os.path.lexists(path):
        for found in re.finditer(":/", path):
            if os.path.isfile(path[: found.start()]):
                return path[: found.start()], path[found.start() + 1 :]
    return path, ""


def hint_at_datasets(path: str) -> str:
    """Return how the dataset is named, for `file.h5/volume` and `file.h5:volume`, which lie in a file; else ""."""
    file = next((one for one in Path(path).parents if one.is_file()), None)
    dataset = "" if file is None else str(Path(path).relative_to(file))
    for found in re.finditer(":", path):
        if os.path.isfile(path[: found.start()]):
            file, dataset = Path(path[: found.start()]), path[found.end() :] or "NAME"
    return "" if file is None else f"; a dataset in the file {file} is {file}:/{dataset}"
