"""Rollouts: a policy acts in lanes of several places at once, and whoever wants to know is told by events."""
