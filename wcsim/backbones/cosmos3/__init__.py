"""NVIDIA's Cosmos 3: the half that generates, its text read once, actions as tokens."""
