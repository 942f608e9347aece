"""Whole experiments: what `wcsim run` and `wcsim bench` do."""
