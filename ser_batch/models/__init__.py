"""Third wing: the networks, their training, and the bundles they are kept in."""
