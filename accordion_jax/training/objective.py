"""What a step minimises.

An objective is a function from (ladder, policy, seed, step) to a `Draw`: which skip masks the step
works on, how much the loss of each counts, and who teaches whom. The step, its compiled programs
and the look-ahead all ask this one function. It computes on the host, the same on every process,
and depends on nothing else, so that what a run will need is known beforehand. A new objective is a
function here and an entry in ``OBJECTIVES``; what it takes beyond these four are its own fields of
``config.objective``.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from accordion_jax.depth import Ladder, Policy, SkipMask, draw
from accordion_jax.training.adaptive import Adaptation, initial


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one step works on: hashable, and static in its compiled program.

    Attributes:
      skip_masks: one or several, of one length.
      weights: of the loss of each; positive.
      teacher: index of the mask whose answers teach the others; None where none of them does.
      outside: whether another network teaches all of them (`teacher.Teacher`).
      distillation: share of the teacher's answers in the loss of each that is taught, 0 to 1; the
        rest is that of the right answers.
      temperature: that softens the answers of teacher and taught; positive.
      balanced: whether the loss of each mask is further weighted by its own inverse, so that deep
        and shallow ones pull alike.
      adaptation: how the weights follow the losses from step to step; None where they do not.

    Raises:
      ValueError: these do not fit together; names them.
    """

    skip_masks: tuple[SkipMask, ...]
    weights: tuple[float, ...]
    teacher: int | None = None
    distillation: float = 0.0
    temperature: float = 1.0
    balanced: bool = False
    adaptation: Adaptation | None = None
    outside: bool = False

    def __post_init__(self):
        if not self.skip_masks or len(self.skip_masks) != len(self.weights):
            raise ValueError(
                f"a draw has {len(self.skip_masks)} skip masks and {len(self.weights)} weights; "
                "wanted as many of each, at least one"
            )
        if len({len(mask) for mask in self.skip_masks}) > 1:
            raise ValueError("the skip masks of a draw must be of one network: of one length")
        if len(set(self.skip_masks)) < len(self.skip_masks):
            raise ValueError("a draw has a skip mask twice; add up its weights")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
            raise ValueError(f"weights={self.weights} of a draw must be positive and finite")
        if self.teacher is not None and not 0 <= self.teacher < len(self.skip_masks):
            raise ValueError(
                f"teacher={self.teacher} of a draw must be the index of one of its "
                f"{len(self.skip_masks)} skip masks"
            )
        if self.outside and self.teacher is not None:
            raise ValueError(
                f"a draw is taught by its mask {self.teacher} and from outside; wanted one of both"
            )
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation={self.distillation} must be a share, 0 to 1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be positive and finite")
        if self.adaptation and len(self.adaptation.policy) != len(self.skip_masks):
            raise ValueError(
                f"the weights of {len(self.adaptation.policy)} masks adapt; the draw has "
                f"{len(self.skip_masks)}"
            )

    @property
    def skip_mask(self) -> SkipMask:
        """Skips the blocks that all of its masks skip: the step does not touch these."""
        return tuple(all(skips) for skips in zip(*self.skip_masks, strict=True))

    @property
    def taught(self) -> tuple[int, ...]:
        """Indices of the masks that somebody teaches."""
        everyone = range(len(self.skip_masks))
        if self.outside:
            return tuple(everyone)
        return tuple(i for i in everyone if self.teacher is not None and i != self.teacher)

    @property
    def depth(self) -> int:
        """How many blocks the step works on."""
        return len(self.skip_mask) - sum(self.skip_mask)


# (ladder, policy, seed, step) -> what that step works on.
Objective = Callable[[Ladder, Policy, int, int], Draw]


def single(skip_mask: SkipMask) -> Draw:
    """Returns the draw of one configuration."""
    return Draw((skip_mask,), (1.0,))


def _weighted(ladder: Ladder, weights: Mapping[int, float]) -> Draw:
    """Returns the draw of these configurations, smallest first; those of weight 0 are left out."""
    chosen = {index: weights[index] for index in sorted(weights) if weights[index] > 0}
    return Draw(tuple(ladder[index].skip_mask for index in chosen), tuple(chosen.values()))


def drawn_depth(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
    """Returns one configuration, drawn from the policy: the objective of Ayed et al."""
    return single(ladder[draw(policy, seed=seed, step=step)].skip_mask)


def expected(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
    """Returns all configurations, weighted by the policy.

    The loss of each step, and its gradient, are exactly the policy's expectation of those of
    `drawn_depth`. Where the ladder is one of prefixes, a step costs one of the full model and a
    head for each configuration; and there is one program to compile in place of one a depth.
    """
    del seed, step
    return _weighted(ladder, dict(enumerate(policy.probabilities)))


def nested(
    ladder: Ladder, policy: Policy, seed: int, step: int, *, deepest_weight: float = 0.5
) -> Draw:
    """Returns a drawn configuration and all smaller ones that the policy draws.

    Where the ladder is one of prefixes, a step costs what one of `drawn_depth` does, and a head for
    each configuration. The weights of a step sum to one, so that its loss does not jump with the
    depth: the price is that the expected gradient is not the policy's, but leans to what is small.

    Args:
      ladder: of the scheme.
      policy: over the ladder.
      seed: of the draws.
      step: taken so far.
      deepest_weight: of the drawn configuration, above 0 and at most 1; the smaller ones share the
        rest as the policy does.

    Raises:
      ValueError: `deepest_weight` is out of range.
    """
    if not 0 < deepest_weight <= 1:
        raise ValueError(f"deepest_weight={deepest_weight} must be above 0 and at most 1")
    drawn = draw(policy, seed=seed, step=step)
    smaller = {index: p for index, p in enumerate(policy.probabilities[:drawn]) if p > 0}
    if not smaller:
        return single(ladder[drawn].skip_mask)
    share = (1 - deepest_weight) / math.fsum(smaller.values())
    return _weighted(
        ladder, {index: share * p for index, p in smaller.items()} | {drawn: deepest_weight}
    )


def sandwich(ladder: Ladder, policy: Policy, seed: int, step: int, *, draws: int = 1) -> Draw:
    """Returns the smallest and the largest configuration, and some drawn between them.

    The sandwich rule of Yu and Huang 2019 (arXiv:1903.05134), for ladders whose configurations are
    no prefixes, where all of them in each step would cost too much. What the drawn ones share is
    computed once. The weights are those of the policy, the drawn ones stand for all between: the
    expected gradient is the policy's.

    Args:
      ladder: of the scheme.
      policy: over the ladder; the smallest and the largest are those that it draws.
      seed: of the draws.
      step: taken so far.
      draws: how many between, each drawn anew.

    Raises:
      ValueError: `draws` is not positive.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} of a sandwich must be at least 1")
    support = sorted(policy.drawn)
    ends, between = {support[0], support[-1]}, support[1:-1]
    weights = {index: policy.probabilities[index] for index in ends}
    if between:
        rest = math.fsum(policy.probabilities[index] for index in between)
        inner = [0.0] * len(ladder)
        for index in between:
            inner[index] = policy.probabilities[index] / rest
        of_inner = Policy(tuple(inner))
        for number in range(draws):
            index = draw(of_inner, seed=seed, step=step * draws + number)
            weights[index] = weights.get(index, 0.0) + rest / draws
    return _weighted(ladder, weights)


def minimax(
    ladder: Ladder,
    policy: Policy,
    seed: int,
    step: int,
    *,
    rate: float = 0.01,
    floor: float = 0.1,
    references: Sequence[float] = (),
) -> Draw:
    """Returns all configurations, whose weights follow their losses (`adaptive`).

    They start at the policy's, and rise for what is furthest behind its reference.

    Args:
      ladder: of the scheme.
      policy: over the ladder.
      seed: not used: nothing is drawn.
      step: likewise.
      rate: of the exponentiated gradient, a step and nat; 0 is `expected`.
      floor: share of the policy that no weight falls below.
      references: the loss that each configuration of the ladder could reach, in nats, the base
        first; none: 0 for all.

    Raises:
      ValueError: there is another number of references than of configurations, or as `Adaptation`.
    """
    if references and len(references) != len(ladder):
        raise ValueError(
            f"config.objective.references has {len(references)} entries; the ladder of scheme "
            f"{ladder.scheme!r} has {len(ladder)} configurations, the base alone first"
        )
    drawn = expected(ladder, policy, seed, step)
    support = tuple(sorted(policy.drawn))
    return dataclasses.replace(
        drawn,
        adaptation=Adaptation(
            configurations=support,
            policy=drawn.weights,
            references=tuple(float(references[i]) if references else 0.0 for i in support),
            rate=float(rate),
            floor=float(floor),
        ),
    )


# Name in a config -> function of (ladder, policy, seed, step) and of its own fields.
OBJECTIVES: dict[str, Callable[..., Draw]] = {
    "drawn_depth": drawn_depth,
    "expected": expected,
    "minimax": minimax,
    "nested": nested,
    "sandwich": sandwich,
}

# Fields of ``config.objective`` that every objective has.
_SHARED = ("distillation", "temperature", "balanced")


def objective_fields(name: str) -> tuple[str, ...]:
    """Returns the fields of ``config.objective`` that an objective takes.

    Raises:
      ValueError: the objective is not known; names those there are.
    """
    if name not in OBJECTIVES:
        raise ValueError(
            f"config.objective.name={name!r} is not known; choose one of {sorted(OBJECTIVES)}"
        )
    _, _, _, _, *own = inspect.signature(OBJECTIVES[name]).parameters
    return (*own, *_SHARED)


def objective_state(name: str, ladder: Ladder) -> dict[str, np.ndarray]:
    """Returns what an objective keeps from step to step, before the first one; most keep nothing.

    Args:
      name: key of ``OBJECTIVES``.
      ladder: of the run.
    """
    return initial(len(ladder)) if OBJECTIVES.get(name) is minimax else {}


def make_objective(
    name: str,
    *,
    distillation: float = 0.0,
    temperature: float = 1.0,
    balanced: bool = False,
    outside: bool = False,
    **fields: Any,
) -> Objective:
    """Returns the objective of a name.

    Args:
      name: key of ``OBJECTIVES``.
      distillation: share of the soft labels in the loss of each configuration of a step but the
        deepest, which gives them: distillation in place (Yu and Huang 2019, arXiv:1903.05134). 0:
        none.
      temperature: of the soft labels (Hinton et al. 2015, arXiv:1503.02531).
      outside: whether another network gives the soft labels, to the deepest as well.
      balanced: weigh the loss of each configuration by its own inverse too, as AdaLoss (Hu et al.
        2019, arXiv:1708.06832), of the batch at hand: the step follows the gradient of the sum of
        the losses' logarithms.
      **fields: the objective's own.

    Raises:
      ValueError: the name is not known, a field is not one of its own or has a value that it
        refuses, the objective works on one configuration a step, where none can teach another, or
        a network teaches nothing.
    """
    known = objective_fields(name)
    for field in fields:
        if field not in known:
            raise ValueError(
                f"config.objective.{field}: {name!r} has no such field; it has {', '.join(known)}"
            )
    make = functools.partial(OBJECTIVES[name], **fields)
    if outside and not distillation:
        raise ValueError(
            "config.train.teacher names a network, and config.objective.distillation=0 learns "
            "nothing from it; set the share of its soft labels, such as 0.5"
        )
    if not distillation and not balanced:
        return make
    if OBJECTIVES[name] is drawn_depth and (balanced or not outside):
        raise ValueError(
            f"config.objective.distillation={distillation} and balanced={balanced} want several "
            f"configurations in a step; {name!r} works on one: use 'expected', 'nested' or "
            "'sandwich', or, to distill, name another network as config.train.teacher"
        )

    def objective(ladder: Ladder, policy: Policy, seed: int, step: int) -> Draw:
        drawn = make(ladder, policy, seed, step)
        if len(drawn.skip_masks) == 1 and not outside:
            return drawn
        depths = [mask.count(False) for mask in drawn.skip_masks]
        return dataclasses.replace(
            drawn,
            teacher=depths.index(max(depths)) if distillation and not outside else None,
            outside=outside,
            distillation=float(distillation),
            temperature=float(temperature),
            balanced=bool(balanced),
        )

    return objective


def in_order_of_need(draw_of: Callable[[int], Draw], steps: Iterable[int]) -> list[Draw]:
    """Returns the draws of these steps, each once, in the order in which they first come."""
    return list(dict.fromkeys(map(draw_of, steps)))
