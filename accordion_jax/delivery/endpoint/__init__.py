"""The network endpoint: plans what to send to a device, and sends it."""
