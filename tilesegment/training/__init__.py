"""Training on small labelled sets: data, augmentation, losses, the loop."""

from tilesegment.training.run import TrainingRun, train

__all__ = ["TrainingRun", "train"]
