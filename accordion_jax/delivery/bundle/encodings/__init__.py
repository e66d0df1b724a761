"""Encodings: how a segment's tensors become bytes, and how bits are added to those that are there.

``encode_chain`` writes a segment in few bits and the refinements that add the others; ``read`` and
``refine`` are what a device does with them (`segment`). Decoding takes NumPy and Python's standard
library. ``ENCODINGS`` has one entry an encoding; a new one is one file here.

Nothing is sent of a tensor's name and shape (`contract.Layout`), and one byte of what it is in. A
ResNet's block of 16 channels, folded and in 4 bits, is then 2.2 kB. In a safetensors file of packed
integers, scales and biases, which has names, shapes and offsets as text, it would be 2.9 kB.
"""

from accordion_jax.delivery.bundle.encodings.contract import Encoding
from accordion_jax.delivery.bundle.encodings.integers import LEVELS, Integer
from accordion_jax.delivery.bundle.encodings.plain import Constant, Float

# Name -> encoding. Codes are part of the format: they never change.
ENCODINGS: dict[str, Encoding] = {
    "zeros": Constant(0, 0.0),
    "ones": Constant(9, 1.0),
    **{f"int{bits}": Integer(bits) for bits in LEVELS},
    "float16": Float(16, "<f2"),
    "float32": Float(32, "<f4"),
}
