"""Training: its speed, and what bears on it."""
