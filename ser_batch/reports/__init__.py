"""Text reports for a terminal."""
