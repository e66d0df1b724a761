"""Ways to run a model on the device, one a file; each is loaded when a manifest asks for it."""
