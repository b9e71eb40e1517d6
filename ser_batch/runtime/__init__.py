"""How work is run: engines, processes, signals, resources."""
