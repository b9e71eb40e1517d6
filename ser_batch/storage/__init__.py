"""Storage: atomic writes, locks, fingerprints and resumable outputs."""
