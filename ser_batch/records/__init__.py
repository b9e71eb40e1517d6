"""Second wing: from log-mel spectrograms to record folders, and from those to datasets."""
