"""Predictors: a model on a device in a precision, from the pixels of a block to the classes of a block."""
