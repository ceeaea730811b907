"""Divide the time of a run so that everything fits into its budget."""

import re
from dataclasses import dataclass

from tilesegment.errors import PlanError

VIEWS = 8  # of `--tta`
# number of looks at the held-out sections, unless they would take more than this share of the run
_LOOKS, _LOOKING = 6, 0.25
# largest shares for optional work: scoring all views, what is chosen in the end
_SCORING_VIEWS, _CALIBRATING = 0.15, 0.25
_CAUTION = 1.15  # the machine may become slower than it was


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `20m` or `2h`.

    Raises:
        PlanError: it is none.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", text)
    if found is None:
        raise PlanError(f"--budget is {text!r}; allowed: seconds, or a time such as 90s, 20m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


@dataclass(frozen=True)
class Choosing:
    """What is chosen on the held-out sections, in words, and how many scorings it takes."""

    words: str
    scorings: float


LINE = Choosing("choosing the line between the two classes, which is at 0.5", 2)  # at twice as many thresholds
CORES = Choosing("choosing how sure a core must be, and how large an object", 8)


@dataclass
class Budget:
    """Seconds of wall clock for each part of a run."""

    total: float | None  # None if updates are counted instead
    preparing: float = 0.0  # reading and checking the data, building the network, summed over all starts of this run
    predicting: float = 0.0  # of a look at the held-out sections; 0 if there are none
    scoring: float = 0.0  # of the same look
    chooses: Choosing | None = None  # what is chosen on the held-out sections in the end
    updating: float = 0.0  # the latest update
    drawing: float = 0.0  # the pictures at the end

    @property
    def looks(self) -> int:
        """Number of looks at the held-out sections; the last one is at the end."""
        look = self.predicting + self.scoring
        if self.total is None or not look:
            return _LOOKS
        affordable = _LOOKING * (self.total - self.preparing) / look
        return 0 if affordable < 2 else min(int(affordable), _LOOKS)  # a single look would choose nothing

    @property
    def calibrates(self) -> bool:
        """Whether there is something to choose, and time for it."""
        return self.chooses is not None and self._allows(self._choosing, _CALIBRATING)

    @property
    def scores_views(self) -> bool:
        """Whether there is time to score the model with all views as well."""
        return self._allows(self._views, _SCORING_VIEWS)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What there is no time for, in words."""
        if not self.predicting:
            return ()
        skipped = {
            "a look at the held-out images while it trains": self.looks == 0,
            "" if self.chooses is None else self.chooses.words: self.chooses is not None and not self.calibrates,
            "the scores of the 8 views of --tta": not self.scores_views,
        }
        return tuple(words for words, one in skipped.items() if one)

    @property
    def finishing(self) -> float:
        """Seconds needed after the last update, including a look that may be due before."""
        look = self.predicting + self.scoring
        seconds = 2 * look * (self.looks > 0) + look + self.drawing + self.updating
        return _CAUTION * (seconds + self._choosing * self.calibrates + self._views * self.scores_views)

    def progress(self, seconds: float) -> float:
        """Return the share of the training that is done after `seconds` of updates and looks, 0 to 1."""
        assert self.total is not None
        training = self.total - self.preparing - self.finishing
        return min(seconds / max(training, 1e-9), 1.0)

    def _allows(self, seconds: float, share: float) -> bool:
        return self.total is None or seconds <= share * (self.total - self.preparing)

    @property
    def _choosing(self) -> float:
        return 0.0 if self.chooses is None else self.predicting + self.chooses.scorings * self.scoring

    @property
    def _views(self) -> float:
        return VIEWS * self.predicting + self.scoring
