"""Training: from a record folder to a bundle."""
