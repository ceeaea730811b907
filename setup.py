"""What pyproject.toml cannot say: the files of the page are fetched before a wheel or an sdist is built."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist


def fetch_page() -> None:
    """Fetch the files of the page; without npm or a network all else is built without them, and it is said."""
    script = Path(__file__).with_name("page") / "build.py"
    subprocess.run([sys.executable, str(script), "--if-possible"], check=True)


class BuildWithPage(build_py):
    """Packages with the files of the page."""

    def run(self) -> None:
        if not self.editable_mode:
            fetch_page()
        super().run()


class SourceWithPage(sdist):
    """Sources with the files of the page, so that a wheel is built from them without npm."""

    def run(self) -> None:
        fetch_page()
        super().run()


setup(cmdclass={"build_py": BuildWithPage, "sdist": SourceWithPage})
