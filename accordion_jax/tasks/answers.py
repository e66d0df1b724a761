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


def soft_cross_entropy(outputs: Any, teacher: Any, temperature: float) -> Any:
    """Returns [...] float32, how far answers are from another's: distillation, in nats.

    The divergence of the softened probabilities from the teacher's, KL(teacher || outputs), times
    temperature^2, which keeps its gradient the size of a cross-entropy's (Hinton et al. 2015,
    arXiv:1503.02531).

    Args:
      outputs: [..., classes] float32 logits.
      teacher: [..., classes] float32 logits.
      temperature: positive.
    """
    import jax  # a device does without
    import jax.numpy as jnp

    ours, theirs = (jax.nn.log_softmax(x / temperature) for x in (outputs, teacher))
    return temperature**2 * jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)


def not_the_largest(outputs: Any, targets: Any) -> Any:
    """Returns [...] bool: whether another class than the right one has the largest output.

    Args:
      outputs: [..., classes], NumPy or JAX.
      targets: [...] integers.
    """
    return outputs.argmax(-1) != targets
