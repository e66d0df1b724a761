"""Answers that name one of several classes: their loss, and when they are wrong."""

from typing import Any


def cross_entropy(outputs: Any, targets: Any) -> Any:
    """Returns [...] float32, minus the logarithm of the probability of the right class, in nats.

    Args:
      outputs: [..., classes] float32 logits.
      targets: [...] integers.
    """
    import optax  # a device does without

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def not_the_largest(outputs: Any, targets: Any) -> Any:
    """Returns [...] bool: whether another class than the right one has the largest output.

    Args:
      outputs: [..., classes], NumPy or JAX.
      targets: [...] integers.
    """
    return outputs.argmax(-1) != targets
