"""Evaluation, cross-validation and comparison of models."""
