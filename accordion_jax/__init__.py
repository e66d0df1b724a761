"""Accordion: train a neural network once, run it at any depth, send it piece by piece."""
