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

    def start(self, role: str, file: Path, *more: str, lacks_us: bool) -> subprocess.Popen[bytes]:
        program = ["-c", _WITHOUT_US] if lacks_us else ["-m", "dask"]
        # the tasks of the tests are in this folder
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        started = subprocess.Popen(
            [sys.executable, *program, role, "--scheduler-file", str(file), "--no-dashboard", *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths},
        )
        self.all.append(started)
        return started

    def scheduler(self, file: Path, *more: str, lacks_us: bool = False) -> subprocess.Popen[bytes]:
        file.unlink(missing_ok=True)
        started = self.start("scheduler", file, "--port", "0", *more, lacks_us=lacks_us)
        until(lambda: file.exists() and file.stat().st_size > 0)
        return started

    def worker(self, file: Path, *, lacks_us: bool = False) -> subprocess.Popen[bytes]:
        return self.start("worker", file, "--nthreads", "1", "--no-nanny", lacks_us=lacks_us)

    def end(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()


def until(condition: Callable[[], object]) -> None:
    """Return once it holds; the machine may be busy."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")
