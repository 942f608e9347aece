"""What is measured: errors by horizon, frames, latency, statistics, rank agreement."""
