"""Policies: how often each configuration of a ladder is drawn in training.

A new policy is one function here, from a ladder and its own fields to a `Policy`, and an entry in
``POLICIES``: a config chooses it by name, and its fields come from ``config.policy`` unread.
"""

import bisect
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.depth.ladder import Ladder
from accordion_jax.depth.policy_file import PolicyFile, check_distribution


@dataclasses.dataclass(frozen=True)
class Policy:
    """A probability distribution over the configurations of a ladder.

    Attributes:
      probabilities: one a configuration, smallest first.
      made_of: what it was made of, as JSON-able values: the contents of files, not their paths.

    Raises:
      ValueError: a probability is negative or not finite, or they do not sum to one (within 1e-6);
        names the value and the sum.
    """

    probabilities: tuple[float, ...]
    made_of: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        check_distribution(self.probabilities, "the policy")

    @property
    def drawn(self) -> tuple[int, ...]:
        """Indices of the configurations that can be drawn, the most probable first."""
        support = [i for i, p in enumerate(self.probabilities) if p > 0]
        return tuple(sorted(support, key=lambda i: (-self.probabilities[i], -i)))

    @functools.cached_property
    def _cumulative(self) -> tuple[float, ...]:
        """Sums of the first probabilities, up to the last positive one: a draw is a search."""
        return tuple(itertools.accumulate(self.probabilities[: max(self.drawn) + 1]))

    def at(self, uniform: float) -> int:
        """Returns the index of the configuration that a number in [0, 1) draws."""
        index = bisect.bisect_right(self._cumulative, uniform)
        # Rounding can leave the last sum a hair under 1: the draw then belongs to the last that has
        # any probability.
        return min(index, len(self._cumulative) - 1)

    def describe(self) -> dict[str, Any]:
        """Returns the policy as a JSON object, with a digest of all of it.

        The digest is the SHA-256 of the canonical JSON (sorted keys, no spaces) of the rest.
        """
        content = {"probabilities": list(self.probabilities), "made_of": dict(self.made_of)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return content | {"digest": hashlib.sha256(text.encode()).hexdigest()}

    def expectation(self, values: Sequence[float]) -> float:
        """Mean of one value a configuration, weighted by how often each is drawn."""
        if len(values) != len(self.probabilities):
            raise ValueError(
                f"expected {len(self.probabilities)} values, one a configuration; got {len(values)}"
            )
        return math.fsum(p * v for p, v in zip(self.probabilities, values, strict=True) if p > 0)


def full_or_uniform(ladder: Ladder, full_probability: float, min_depth: int = 1) -> Policy:
    """Returns the paper's policy: the full model with a fixed probability, else uniform.

    The full model is drawn with probability `full_probability`; with the rest, the number of blocks
    is uniform over the ladder's smaller configurations of at least `min_depth` blocks. CoML-05 and
    BlockCoML-05 of the paper are ``full_probability=0.5``, CoML-03 is 0.3, and a network that is
    always trained whole is 1.

    Raises:
      ValueError: `full_probability` is outside [0, 1], or no smaller configuration is left for the
        rest of the probability.
    """
    if not 0 <= full_probability <= 1:
        raise ValueError(f"full_probability={full_probability} must be between 0 and 1")
    smaller = [c.depth >= min_depth for c in ladder.configurations[:-1]]
    if full_probability < 1 and not any(smaller):
        raise ValueError(
            f"full_probability={full_probability} leaves {1 - full_probability:.3g} for smaller "
            f"configurations, but none has min_depth={min_depth} or more of "
            f"{ladder.full.depth} blocks; lower min_depth or set full_probability=1"
        )
    share = (1 - full_probability) / max(sum(smaller), 1)
    return Policy((*(share * wanted for wanted in smaller), float(full_probability)))


def listed(ladder: Ladder, probabilities: Sequence[float] = ()) -> Policy:
    """Returns the policy of these probabilities, one a configuration, the base alone first.

    Raises:
      ValueError: there are not as many as configurations, or as `Policy`.
    """
    if len(probabilities) != len(ladder):
        raise ValueError(
            f"probabilities has {len(probabilities)} entries; the ladder of scheme "
            f"{ladder.scheme!r} has {len(ladder)} configurations, the base alone first"
        )
    return Policy(tuple(map(float, probabilities)))


def only(ladder: Ladder, depth: int = 0) -> Policy:
    """Returns the policy that always draws the configuration of so many blocks.

    A network of one depth, trained alone: what a ladder's configurations are compared with.

    Raises:
      ValueError: no configuration keeps so many blocks; names those there are.
    """
    depths = [configuration.depth for configuration in ladder]
    if depth not in depths:
        raise ValueError(f"depth={depth} of policy 'only' must be one of {depths} blocks")
    return Policy(tuple(float(each == depth) for each in depths))


def file(ladder: Ladder, path: str = "") -> Policy:
    """Returns the policy of a file that ``python -m accordion_jax.policy`` has written.

    What it is made of is the file's content, so that a run goes on with this content alone.

    Raises:
      ValueError: no path is given, the file is no policy, or it is of another ladder.
      FileNotFoundError: there is no such file.
    """
    if not path:
        raise ValueError("policy 'file' needs config.policy.path, the path of a policy file")
    found = PolicyFile.read(path)
    try:
        probabilities = found.on(ladder)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    text = found.to_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Policy(probabilities, {"path": f"sha256:{digest}", "content": json.loads(text)})


# Name in a config -> function of a ladder and of its own fields of ``config.policy``.
POLICIES: dict[str, Callable[..., Policy]] = {
    "file": file,
    "full_or_uniform": full_or_uniform,
    "listed": listed,
    "only": only,
}


def policy_fields(name: str) -> tuple[str, ...]:
    """Returns the fields that a policy takes.

    Raises:
      ValueError: the policy is not known; names those there are.
    """
    if name not in POLICIES:
        raise ValueError(f"policy {name!r} is not known; choose one of {sorted(POLICIES)}")
    _, *fields = inspect.signature(POLICIES[name]).parameters
    return tuple(fields)


def make_policy(name: str, ladder: Ladder, fields: Mapping[str, Any]) -> Policy:
    """Returns the policy of a name over a ladder, with what it was made of.

    Args:
      name: key of ``POLICIES``.
      ladder: to draw from.
      fields: its own, as `policy_fields` names them; others are refused.

    Raises:
      ValueError: the name or a field is not known, or as the policy's function.
    """
    known = policy_fields(name)
    for field in fields:
        if field not in known:
            raise ValueError(f"policy {name!r} has no field {field!r}; it has {', '.join(known)}")
    policy = POLICIES[name](ladder, **fields)
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}
    return dataclasses.replace(policy, made_of={"name": name, **plain, **policy.made_of})


def draw(policy: Policy, *, seed: int, step: int) -> int:
    """Returns the index of the configuration for one training step.

    A function of (seed, step) and nothing else: every process of a run draws the same without
    talking to the others, and a restarted run goes on as if it had not stopped. The bits are
    Philox's (Salmon et al. 2011), whose raw output NumPy keeps stable across versions.

    Raises:
      ValueError: seed or step is negative.
    """
    if seed < 0 or step < 0:
        raise ValueError(f"seed={seed} and step={step} must not be negative")
    bits = np.random.Philox(key=np.array([seed, step], np.uint64)).random_raw()
    uniform = (int(bits) >> 11) * 2.0**-53
    return policy.at(uniform)
