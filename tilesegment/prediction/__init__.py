"""Prediction of images: settings, plan, job, queue, results."""
