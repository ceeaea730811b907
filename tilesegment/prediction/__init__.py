"""Predicting: from what the user chose to what became of each image."""
