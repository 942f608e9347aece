"""NVIDIA Cosmos-Predict2.5, and small worlds of the same architecture: the first family of backbones."""
