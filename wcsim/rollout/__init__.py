"""Rollouts: a policy acts in lanes of several places at once, and sinks receive events."""
