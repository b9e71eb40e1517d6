"""Inference: a listing and a bundle give a prediction table."""
