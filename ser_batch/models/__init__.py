"""Networks, and the bundles that store trained models."""
