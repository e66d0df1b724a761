"""The replay experiment: error against time since the request, over recorded links.

A device asks at a random moment of a recorded link, and from then on has at each moment the error
of the best model that has arrived:

* **Accordion**: that of the best configuration whose segments are all there;
* **full model**: chance until the last byte of the model, then the full model's;
* **8 bits, whole**: the same with a quarter of the bytes, and the error of the quantised model;
* **small models**: likewise, each with its own size and error.

Chance is 1 - 1/classes: what a device without a model can do. Accordion's answer begins with its
manifest, which is charged; the others are given theirs. All wait one round trip.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from accordion_jax.delivery.bundle.front import Head
from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.links.link import Link
from accordion_jax.delivery.links.slow_start import transfer_time as slow_transfer_time
from accordion_jax.delivery.links.traces import Trace
from accordion_jax.depth import LookupTable

_QUANTILES = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to get a model onto a device.

    Attributes:
      name: for the legend.
      sizes_bytes: received until each of its models is complete, increasing.
      errors: top-1 error of each, 0 to 1.
      round_trips: before the first byte of a model.
    """

    name: str
    sizes_bytes: tuple[int, ...]
    errors: tuple[float, ...]
    round_trips: int = 1


@dataclasses.dataclass(frozen=True)
class Curve:
    """Error against time of one method, over all starts of all traces.

    Attributes:
      method: which.
      mean: [times] top-1 error.
      quantiles: [3, times]: that under which a tenth, half and nine tenths of the starts are.
      first_s: [samples] until its first model runs; infinity if never.
      last_s: [samples] until its last one does.
    """

    method: Method
    mean: np.ndarray
    quantiles: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray


def head_bytes(manifest: Manifest) -> int:
    """Returns the bytes before the first segment of an answer with the full model: its manifest."""
    segments = tuple(manifest.by_sha256.values())
    return len(Head.of(manifest, segments, document=manifest.to_bytes()).to_bytes())


def accordion(manifest: Manifest, overhead_bytes: int = 0) -> Method:
    """Returns the method that sends segments in the default order.

    Args:
      manifest: of the bundle; its table has the errors.
      overhead_bytes: received before the first segment, for instance `head_bytes`.
    """
    rows = [manifest.rows[configuration.name] for configuration in manifest.path]
    return Method(
        "Accordion",
        tuple(row.size_bytes + overhead_bytes for row in rows),
        # The best of what is complete is in use.
        tuple(itertools.accumulate((row.top1_error for row in rows), min)),
    )


def whole(name: str, size_bytes: int, error: float) -> Method:
    """Returns the method that sends one model, of use when all of it is there."""
    return Method(name, (size_bytes,), (error,))


def small_model(path: str | os.PathLike, name: str = "") -> Method:
    """Returns the method that sends a separately trained small model.

    Args:
      path: of its look-up table, or of the folder of its run; the row of the full model counts.
      name: for the legend; that of the file or folder if empty.
    """
    row = LookupTable.read(path).full
    return whole(name or f"{pathlib.Path(path).stem}, alone", row.size_bytes, row.top1_error)


def number_of_classes(manifest: Manifest) -> int | None:
    """Returns between how many classes a model chooses; None if its manifest does not say."""
    classes = manifest.model.get("classes")
    return len(classes) if classes else manifest.model["arguments"].get("num_classes")


def draw_starts(trace: Trace, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns [count] start times in seconds, one in each of as many equal parts of the trace.

    Stratified: the parts of a trace count alike, and fewer starts are needed than if each was drawn
    from all of it.
    """
    return (np.arange(count) + rng.random(count)) * trace.end_s / count


def log_times(horizon_s: float, count: int = 240) -> np.ndarray:
    """Returns [count] times from 1 ms to the horizon, evenly spaced in their logarithm."""
    return np.geomspace(1e-3, horizon_s, count)


def replay(
    methods: Sequence[Method],
    traces: Sequence[Trace],
    times_s: np.ndarray,
    *,
    chance_error: float,
    starts: int,
    seed: int,
    round_trip_s: float = 0.0,
    header_bytes: int = 0,
    slow_start: bool = False,
) -> list[Curve]:
    """Returns the curve of each method; all methods see the same links at the same moments.

    Args:
      methods: to compare.
      traces: of links. Each counts alike, however long, and goes on from its start at its end.
      times_s: [times] since the request, increasing.
      chance_error: top-1 error without a model.
      starts: requests a trace.
      seed: the same seed gives the same curves, byte for byte.
      round_trip_s: from a request until its first byte can arrive.
      header_bytes: of each answer, before its body.
      slow_start: whether the connection is new: `slow_start.transfer_time`.

    Raises:
      ValueError: no traces or starts.
    """
    if not traces or starts < 1:
        raise ValueError(f"{len(traces)} traces with starts={starts}: wanted at least one of each")
    rng = np.random.default_rng(seed)
    # Of each method, [samples, models] seconds until a model is complete.
    arrivals: list[list[np.ndarray]] = [[] for _ in methods]
    for trace in traces:
        link, starts_s = Link(trace), draw_starts(trace, starts, rng)
        for found, method in zip(arrivals, methods, strict=True):
            wait_s = method.round_trips * round_trip_s
            sizes_bytes = np.array(method.sizes_bytes) + method.round_trips * header_bytes
            if slow_start:
                took_s = slow_transfer_time(
                    link, starts_s + wait_s, sizes_bytes, round_trip_s=round_trip_s
                )
            else:
                took_s = link.transfer_time(starts_s[:, None] + wait_s, sizes_bytes)
            found.append(wait_s + took_s)
    curves = []
    for found, method in zip(arrivals, methods, strict=True):
        arrived_s = np.concatenate(found)
        errors = _errors_at(arrived_s, np.array(method.errors), times_s, chance_error)
        curves.append(
            Curve(
                method,
                errors.mean(axis=0),
                np.quantile(errors, _QUANTILES, axis=0, method="inverted_cdf"),
                arrived_s[:, 0],
                arrived_s[:, -1],
            )
        )
    return curves


def _errors_at(
    arrived_s: np.ndarray, errors: np.ndarray, times_s: np.ndarray, chance_error: float
) -> np.ndarray:
    """[samples, times] error of the deepest model that is complete."""
    with_chance = np.concatenate([[chance_error], errors])
    complete = [np.searchsorted(sample, times_s, side="right") for sample in arrived_s]
    return with_chance[np.array(complete)]
