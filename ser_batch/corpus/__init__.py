"""The table of recordings: sources, labels, duplicates, splits, folds."""
