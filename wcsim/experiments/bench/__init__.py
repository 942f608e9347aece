"""Benchmarks: worlds, environments, caches and forward passes, measured side by side."""
