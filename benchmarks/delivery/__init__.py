"""Delivery: planning, sending, and the time to a first prediction."""
