"""From a listing and a bundle to a prediction table."""
