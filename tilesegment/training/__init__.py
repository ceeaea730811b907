"""Training on small labelled sets: data, augmentation, losses, the loop."""

from tilesegment.training.run import TrainingRun, look_ahead, train

__all__ = ["TrainingRun", "look_ahead", "train"]
