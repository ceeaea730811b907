"""Training on small labelled sets: data, augmentation, losses, the loop."""
