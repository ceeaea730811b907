"""How the time of a run is divided, so that all that it does fits into its budget."""

from dataclasses import dataclass

VIEWS = 8  # of `--tta`
# how often the held-out sections are looked at, in parts of the run, unless that would take more than this share of it
_LOOKS, _LOOKING = 6, 0.25
_SCORING_VIEWS = 0.15  # largest share for the scores of all views, which are of use but not needed
_CAUTION = 1.15  # the machine may become slower than it was


@dataclass
class Budget:
    """Seconds of wall clock for all that a run does: preparing, updates, looks, calibration, scores and pictures.

    Attributes:
        total: seconds of all; None where updates are counted instead.
        preparing: reading and checking the data, building the network, of every start of this run.
        predicting, scoring: what a look at the held-out sections takes; 0 where there are none.
        calibrates: whether the line between two classes is chosen on the held-out sections.
        updating: seconds of the latest update.
        drawing: seconds of the pictures at the end.
    """

    total: float | None
    preparing: float = 0.0
    predicting: float = 0.0
    scoring: float = 0.0
    calibrates: bool = False
    updating: float = 0.0
    drawing: float = 0.0

    @property
    def looks(self) -> int:
        """How often the held-out sections are looked at; the last look is at the end."""
        if self.total is None:
            return _LOOKS
        look = self.predicting + self.scoring
        affordable = _LOOKING * (self.total - self.preparing) / look if look else _LOOKS
        # a single look, at the end, would choose nothing
        return 0 if affordable < 2 else min(int(affordable), _LOOKS)

    @property
    def scores_views(self) -> bool:
        """Whether there is time to score the model with all views, too."""
        return self.total is None or self._views <= _SCORING_VIEWS * (self.total - self.preparing)

    @property
    def finishing(self) -> float:
        """Seconds that are needed after the last update."""
        look = self.predicting + self.scoring
        seconds = look * (self.looks > 0) + look + self.drawing + self.updating
        if self.calibrates:  # at twice as many thresholds
            seconds += self.predicting + 2 * self.scoring
        if self.scores_views:
            seconds += self._views
        return _CAUTION * seconds

    def progress(self, seconds: float) -> float:
        """Part of the training that is done after `seconds` of updates and looks, 0 to 1."""
        assert self.total is not None
        training = self.total - self.preparing - self.finishing
        return min(seconds / training, 1.0) if training > 0 else 1.0

    @property
    def _views(self) -> float:
        return VIEWS * self.predicting + self.scoring
