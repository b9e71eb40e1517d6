"""Checks of a finished record folder."""
