"""Schedulers and workers of dask's own command line, as a user starts them on the machines of a cluster."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# a Python that lacks this package, as where only dask was installed
_WITHOUT_US = "import sys; sys.modules['tilesegment'] = None; from dask.__main__ import main; main()"


class Processes:
    """Processes of dask's own command line, ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, lacks_us: bool = False) -> subprocess.Popen[bytes]:
        program = ["-c", _WITHOUT_US] if lacks_us else ["-m", "dask"]
        started = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            # the tasks of the tests are here
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        )
        self.all.append(started)
        return started

    def scheduler(self, file: Path, *more: str, lacks_us: bool = False) -> subprocess.Popen[bytes]:
        file.unlink(missing_ok=True)
        line = ("scheduler", "--scheduler-file", str(file), "--port", "0", "--no-dashboard", *more)
        started = self.start(*line, lacks_us=lacks_us)
        until(lambda: file.exists() and file.stat().st_size > 0)
        return started

    def worker(self, file: Path, *more: str, lacks_us: bool = False) -> subprocess.Popen[bytes]:
        line = ("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard", "--no-nanny", *more)
        return self.start(*line, lacks_us=lacks_us)

    def end(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()


def until(condition: Callable[[], object]) -> None:
    """Returns once it holds; the machine may be busy."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")
