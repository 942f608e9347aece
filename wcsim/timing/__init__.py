"""Time: clocks, what a decision may spend, and a governor of effort."""
