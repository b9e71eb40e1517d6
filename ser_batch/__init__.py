"""Batch speech emotion recognition: audio folders to TFRecords, CRNN training, predictions to CSV."""

__version__ = "0.1.0"
