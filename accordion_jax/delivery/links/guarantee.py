"""A statement that holds: an error of at most e within a deadline, over links and images.

Two bounds and a union bound. *The link*: the bytes that the next link carries within the deadline
are at least the r-th smallest of those that n measured ones carried, but with probability
r / (n + 1), whatever their distribution (`bounds.prediction_rank`); or at least a share of all
links carries them (`bounds.tolerance_rank`). *The error*: of the configurations within these bytes
the one of least upper bound, from a band that holds for all rows at once (`bounds.upper_band`).

Assumed is that images are drawn independently from what the model will meet, and the measured links
from what it will be sent over. Two requests within one recording depend on each other, so a
recording counts once: one start is drawn from each. A long one may be cut into blocks that are then
taken to be independent, which is for whoever asks to decide.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.replay import Method
from accordion_jax.delivery.links.traces import Trace
from accordion_jax.depth import LookupTable
from accordion_jax.depth.bounds import prediction_rank, tolerance_rank, upper_band

# Of the risk, what the links may take: a band grows with the logarithm of its risk alone, while the
# rank of a link is proportional to it.
_LINKS_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """What holds with a confidence; `statement` says it.

    Attributes:
      deadline_s: from the request.
      confidence: 1 - delta, over the draw of links and images.
      content: share of all links that it is about; None: it is about the next link.
      links: measured ones that it rests on.
      rank: of their carried bytes, which counts; 0: there are too few of them.
      carried_bytes: within the deadline; 0 where nothing can be said.
      configuration: to send; None where not even the smallest is known to arrive.
      size_bytes: of it, as the method counts; 0 where there is none.
      error_bound: of its error; 1 where there is none.
    """

    deadline_s: float
    confidence: float
    content: float | None
    links: int
    rank: int
    carried_bytes: int
    configuration: str | None
    size_bytes: int
    error_bound: float

    def statement(self, error_name: str = "top-1 error") -> str:
        """Returns it as a sentence."""
        on = (
            "a request over the next link"
            if self.content is None
            else f"at least {100 * self.content:g} % of the links"
        )
        sure = f"With probability {self.confidence:g} over links and images"
        if self.configuration is None:
            why = (
                f"{self.links} independent links are too few"
                if not self.rank
                else f"only {self.carried_bytes:,} bytes are sure to arrive"
            )
            return (
                f"Nothing can be promised within {self.deadline_s:g} s with probability "
                f"{self.confidence:g} for {on}: {why}."
            )
        verb = "has" if self.content is None else "have"
        return (
            f"{sure}, {on} {verb} within {self.deadline_s:g} s a model whose {error_name} is at "
            f"most {100 * self.error_bound:.2f} %: {self.configuration}, of {self.size_bytes:,} "
            f"bytes, where {self.carried_bytes:,} arrive (rank {self.rank} of {self.links} links)."
        )


def independent_links(
    traces: Sequence[Trace], block_s: float | None = None
) -> list[tuple[Link, float, float]]:
    """Returns (link, start, length) of each stretch that counts as one independent link.

    Args:
      traces: recordings.
      block_s: seconds of a block, each taken to be independent of the others; None takes each
        recording as one.
    """
    found = []
    for trace in traces:
        link = Link(trace)
        count = max(int(trace.end_s // block_s), 1) if block_s else 1
        length = trace.end_s / count
        found += [(link, block * length, length) for block in range(count)]
    return found


def carried_within(
    stretches: Sequence[tuple[Link, float, float]], window_s: float, *, seed: int
) -> np.ndarray:
    """Returns [stretches] bytes carried in a time from a start drawn within each."""
    rng = np.random.default_rng(seed)
    starts = [start + length * rng.random() for _, start, length in stretches]
    bits = [
        float(link.capacity_bits(start, start + max(window_s, 0.0)))
        for (link, _, _), start in zip(stretches, starts, strict=True)
    ]
    return np.array(bits) / 8


def statements(
    table: LookupTable,
    method: Method,
    traces: Sequence[Trace],
    deadlines_s: Sequence[float],
    *,
    confidence: float,
    content: float | None = None,
    block_s: float | None = None,
    round_trip_s: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Returns a sentence a deadline, as `guarantee`, and after these what they assume.

    Args:
      table: as `guarantee`, like `method`, `confidence` and `content`.
      method: its round trips are taken off the deadlines.
      traces: measured links.
      deadlines_s: from the request.
      confidence: of each sentence.
      content: of each sentence.
      block_s: as `independent_links`.
      round_trip_s: of which the method takes some.
      seed: of the starts.
    """
    stretches = independent_links(traces, block_s)
    wait_s = method.round_trips * round_trip_s
    error_name = str(table.provenance.get("error_name", "top-1 error"))
    said = []
    for deadline_s in deadlines_s:
        carried = carried_within(stretches, deadline_s - wait_s, seed=seed)
        found = guarantee(
            table,
            method,
            carried,
            deadline_s=deadline_s,
            confidence=confidence,
            content=content,
        )
        said.append(found.statement(error_name))
    cut = f"blocks of {block_s:g} s" if block_s else "recordings, one start each"
    return [
        *said,
        f"Assumed: {len(stretches)} {cut}, independent and like the links to come; "
        f"{table.full.examples:,} examples, independent, like those to come, and not used in "
        "training or in choosing the model.",
    ]


def guarantee(
    table: LookupTable,
    method: Method,
    carried_bytes: np.ndarray,
    *,
    deadline_s: float,
    confidence: float,
    content: float | None = None,
) -> Guarantee:
    """Returns what holds within a deadline.

    Args:
      table: its counts of errors, on images that were not used in training or in choosing a model.
      method: the sizes that arrive, one a row, manifest included.
      carried_bytes: [links] as `carried_within`, with the round trips taken off the deadline.
      deadline_s: for the statement.
      confidence: 1 - delta, in [0.5, 1).
      content: of `tolerance_rank`, in (0, 1); None is about the next link.

    Raises:
      ValueError: there are no links, or a probability is none; names it.
    """
    if not (0.5 <= confidence < 1 and (content is None or 0 < content < 1)):
        raise ValueError(
            f"confidence={confidence} must be in [0.5, 1) and content={content} in (0, 1): "
            "probabilities, no percentages"
        )
    count, risk = len(carried_bytes), 1 - confidence
    if not count:
        raise ValueError("there are no links; a guarantee needs measured ones")
    if content is None:
        rank = prediction_rank(count, _LINKS_SHARE * risk)
        images_risk = risk - rank / (count + 1)
    else:
        rank = tolerance_rank(count, content, _LINKS_SHARE * risk)
        images_risk = (1 - _LINKS_SHARE) * risk
    carried = int(np.sort(carried_bytes)[rank - 1]) if rank else 0
    sizes = [size for size in method.sizes_bytes if size <= carried]
    said = (deadline_s, confidence, content, count, rank, carried)
    if not rank or not sizes:
        return Guarantee(*said, None, 0, 1.0)
    errors, examples = ([getattr(r, name) for r in table.rows] for name in ("errors", "examples"))
    bounds = upper_band(errors, examples, images_risk)[: len(sizes)]
    best = int(np.argmin(bounds))
    return Guarantee(*said, table.rows[best].configuration, sizes[best], float(bounds[best]))
