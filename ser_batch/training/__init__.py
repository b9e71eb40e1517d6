"""From a record folder to a bundle."""
