"""Backbones: the video diffusion models that a world can run on, a family each, behind one contract."""
