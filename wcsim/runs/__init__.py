"""The run directory: what a run depends on, who writes it, and that it is whole."""
