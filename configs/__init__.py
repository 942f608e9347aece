"""Packaged configurations: experiments, cache presets, training recipes."""
