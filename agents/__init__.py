"""Planners that know only a cost, objectives that make one from a world, and the agents that remember in between."""
