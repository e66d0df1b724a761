"""A bundle: the format, its manifest, cutting a model into segments, writing and reading."""
