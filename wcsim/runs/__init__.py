"""The run directory: what a run depends on, which process writes it, and that it is whole."""
