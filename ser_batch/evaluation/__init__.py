"""Scores: evaluation, cross-validation, comparison."""
