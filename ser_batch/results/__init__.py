"""Fourth wing: predictions, their tables, scores and pictures."""
