"""A real browser for tests of the page: Debian's Chromium, driven by Playwright, and all that it complains of."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PROGRAM = shutil.which("chromium")
AXE = Path(__file__).parents[1] / "build" / "page" / "axe.min.js"
VENDOR = Path(__file__).parents[1] / "tilesegment" / "viewer" / "page" / "vendor"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# of the software that draws for want of a graphics card
_OF_THE_MACHINE = ("GL Driver Message",)
LAPTOP = (1366, 768)
SERIOUS = ("serious", "critical")

needs_browser = pytest.mark.skipif(
    PROGRAM is None or not (VENDOR / "LICENSES.txt").exists(),
    reason="needs Chromium (apt-get install chromium) and the files of the page (make page)",
)


@dataclass
class Watched:
    """A page, and what it said and asked that it should not have.

    Attributes:
        page: Playwright's.
        complaints: messages on the console, errors, requests that failed, and those to other hosts.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Open the viewer's page, and wait until its first picture is complete."""
        self.page.goto(url)
        self.page.wait_for_function("() => document.documentElement.dataset.ready === 'true'")
        self.wait_until_drawn()

    def wait_until_drawn(self) -> None:
        """Wait until every image of the view has all its tiles."""
        self.page.wait_for_function(
            "() => window.app?.osd?.world.getItemCount() > 0"
            " && Array.from({length: app.osd.world.getItemCount()}, (_, n) => app.osd.world.getItemAt(n))"
            ".every(one => one.getFullyLoaded())"
        )

    def to_screen(self, y: float, x: float) -> tuple[float, float]:
        """Where a point of the image is on the screen, (x, y) as the mouse counts."""
        point = self.page.evaluate(
            "([y, x]) => { const item = app.osd.world.getItemAt(0);"
            " const p = item.imageToWindowCoordinates(new OpenSeadragon.Point(x, y)); return [p.x, p.y]; }",
            [y, x],
        )
        return point[0], point[1]

    def zoom_to(self, y: float, x: float, pixels: float) -> None:
        """Show `pixels` pixels of the image across, around a point, at once."""
        self.page.evaluate(
            "([y, x, w]) => { const item = app.osd.world.getItemAt(0);"
            " app.osd.viewport.fitBounds(item.imageToViewportRectangle(x - w / 2, y - w / 4, w, w / 2), true); }",
            [y, x, pixels],
        )
        self.wait_until_drawn()

    def colour_at(self, y: float, x: float) -> tuple[int, int, int]:
        """The colour of a point of the image as it is drawn on the screen: red, green, blue."""
        found = self.page.evaluate(
            "([y, x]) => { const canvas = app.osd.drawer.canvas, box = canvas.getBoundingClientRect();"
            " const item = app.osd.world.getItemAt(0);"
            " const p = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));"
            " const scale = canvas.width / box.width;"
            " const copy = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});"
            " copy.drawImage(canvas, -Math.floor(p.x * scale), -Math.floor(p.y * scale));"
            " return Array.from(copy.getImageData(0, 0, 1, 1).data); }",
            [y, x],
        )
        return found[0], found[1], found[2]

    def check_colour(self, y: int, x: int, wanted: Sequence[int]) -> None:
        """Check that pixel (y, x) is drawn in a colour, at once or after the frames that tiles take to arrive."""
        for _ in range(100):
            if self.colour_at(y + 0.5, x + 0.5) == tuple(wanted):
                return
            self.page.wait_for_timeout(50)
        assert self.colour_at(y + 0.5, x + 0.5) == tuple(wanted)

    def serious_barriers(self) -> list[str]:
        """What axe-core finds that keeps people from using the page."""
        if not AXE.exists():
            pytest.skip("needs axe-core: `make page` fetches it")
        self.page.evaluate(AXE.read_text())  # evaluated by the debugger: the page's own policy allows no such script
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']}: {[json.dumps(node['target']) for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in SERIOUS
        ]

    def check_silent(self) -> None:
        """Check that nothing was complained of."""
        assert not self.complaints, self.complaints


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        try:
            yield program
        finally:
            program.close()


@contextmanager
def watched_page(program: Any, url: str, size: tuple[int, int] = LAPTOP, **options: Any) -> Iterator[Watched]:
    """Open the page of a viewer in a profile of its own; check in the end that nothing was complained of.

    Args:
        program: from `chromium`.
        url: of the viewer.
        size: width and height of the window.
        options: of the profile, as `color_scheme` and `device_scale_factor`.
    """
    profile = program.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    try:
        watched = Watched(profile.new_page())
        _listen(watched, urlsplit(url).netloc)
        watched.open(url)
        yield watched
        watched.check_silent()
    finally:
        profile.close()


def _listen(watched: Watched, host: str) -> None:
    """Keep all that a page says, and the requests that it should not make."""

    def say(text: str) -> None:
        if not any(part in text for part in _OF_THE_MACHINE):
            watched.complaints.append(text)

    def ask(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != host:
            say(f"asked another host: {request.url}")

    def answered(response: Any) -> None:
        if response.status >= 400:
            say(f"{response.status}: {response.url}")

    watched.page.on("console", lambda message: say(f"console: {message.type}: {message.text}"))
    watched.page.on("pageerror", lambda error: say(f"error: {error}"))
    watched.page.on("request", ask)
    watched.page.on("response", answered)
