"""What is measured: error against horizon, latency against a deadline, and the run directory that keeps both."""
