"""How fast a device decodes: segments of each size, a bundle, and beside them `nncodec`.

    python -m benchmarks.delivery.decoding [--decoded=BUNDLE] [--nnc_python=PYTHON]

Each is held against two things: a link of 1 Gbit/s, and zlib alone, which inflates the same streams
and is what decoding cannot be faster than. Of one core, in processor time. Weights are drawn as
trained ones are, as in `encodings`, and norms are folded.

``--nnc_python`` is a Python that has `nncodec` (ISO/IEC 15938-17; docs/compositions.md says how):
it decodes the network of the first table. Without it that row is left out.

Time on two CPU cores: half a minute for ResNet-20, and a minute more with `nncodec`.
"""

import functools
import hashlib
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from absl import flags

from accordion_jax.delivery.bundle.encodings.chain import encode_chain
from accordion_jax.delivery.bundle.encodings.contract import Layout
from accordion_jax.delivery.bundle.encodings.segment import (
    encodings_for,
    read,
    refine,
)
from accordion_jax.delivery.bundle.folding import fold_norms
from accordion_jax.delivery.bundle.reading import read_manifest, segment_path
from accordion_jax.delivery.bundle.variables import load_variables
from accordion_jax.delivery.errors import DeliveryError
from benchmarks.compositions import nnc
from benchmarks.compositions.forms import flatten
from benchmarks.delivery.encodings import (
    Arrays,
    Measured,
    random_variables,
    segments_of,
    size_of,
)
from benchmarks.options import DEPTH_N, JSON, NNC_PYTHON, REPEATS, run
from benchmarks.report import Report
from benchmarks.timing import Sample, clocked, interleaved

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_DECODED = flags.DEFINE_string(
    "decoded", "", "Folder of a bundle; empty: the one that comes with the project."
)
_QPS = flags.DEFINE_list("qps", ["-32", "-24"], "Quantisation parameters of nncodec.")

LINK_BPS = 1e9
_STEPS = ((2,), (4,), (8,), (2, 4), (4, 8))
# A work that is timed is repeated until it takes so long: processor time is counted in steps.
_LEAST_S = 0.005
# (deflate stream, bytes that come of it)
Streams = list[tuple[bytes, int]]


def streams_of(work: Callable[[], object]) -> Streams:
    """Returns the deflate streams that a work inflates."""
    found: Streams = []
    make = zlib.decompressobj

    class Recorder:
        """A decoder that writes down what it is given."""

        def __init__(self, wbits: int):
            self._decoder = make(wbits)

        def decompress(self, content: bytes, most: int) -> bytes:
            """As that of `zlib`."""
            made = self._decoder.decompress(content, most)
            found.append((content[: len(content) - len(self._decoder.unused_data)], len(made)))
            return made

        def __getattr__(self, name: str) -> object:
            return getattr(self._decoder, name)

    with mock.patch.object(zlib, "decompressobj", Recorder):
        work()
    return found


def inflate(streams: Streams) -> None:
    """Does what zlib has to do of a decoding."""
    for stream, size in streams:
        zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, size)


def timed(repeats: int, **works: Callable[[], object]) -> dict[str, Sample]:
    """Returns the processor's seconds of each work, taken in turn."""
    runs = {}
    for name, work in works.items():
        work()  # the first call fills tables
        count = max(1, round(_LEAST_S / max(clocked(work, time.process_time)(), 1e-6)))
        runs[name] = functools.partial(_mean_s, work, count)
    return interleaved(runs, repeats)


def _mean_s(work: Callable[[], object], count: int) -> float:
    def several() -> None:
        for _ in range(count):
            work()

    return clocked(several, time.process_time)() / count


def sizes_of(segments: Mapping[str, Arrays]) -> Iterator[tuple[str, Arrays]]:
    """Yields one segment of each layout that there is, and what it is called."""
    seen = set()
    for name, arrays in segments.items():
        layout = tuple(np.shape(array) for array in arrays.values())
        if layout not in seen:
            seen.add(layout)
            yield f"{name}, {_numbers(arrays):,} numbers", arrays


def decoding(arrays: Arrays, bits: Sequence[int]) -> tuple[int, Callable[[], object]]:
    """Returns bytes of a segment's last step, and what makes float32 of it."""
    layout = Layout.of(arrays)
    contents = encode_chain(arrays, [encodings_for(arrays, each) for each in bits])
    # A device has checked the digest before.
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    if len(bits) == 1:
        return len(contents[0]), lambda: read(contents[0], layout, digests[0]).arrays()
    held = read(contents[0], layout, digests[0])
    return len(contents[-1]), lambda: refine(held, contents[-1], digests[-1]).arrays()


def main() -> None:
    """Measures segments by their size, a bundle, and the codec."""
    variables = fold_norms(random_variables(DEPTH_N.value))
    segments = segments_of(variables)
    with Report(f"ResNet-{6 * DEPTH_N.value + 2}, random weights, folded", JSON.value) as report:
        by_size(report, segments, REPEATS.value)
        bundle = pathlib.Path(_DECODED.value or next(_ROOT.glob("pretrained/*/")))
        of_bundle(report, bundle, REPEATS.value)
        qps = [int(qp) for qp in _QPS.value]
        beside_nnc(report, variables, NNC_PYTHON.value, qps, REPEATS.value)


def by_size(report: Report, segments: Mapping[str, Arrays], repeats: int) -> None:
    """Prints a row for each size of segment and each step of bits."""
    report.table(
        {"segment": "", "bits": "", "bytes": ",.0f", "us": ".0f", "Mbit/s": ".0f"}
        | {"MB/s of float32": ".0f", "zlib alone, Mbit/s": ".0f", "of zlib's speed": ".2f"}
    )
    for name, arrays in sizes_of(segments):
        for bits in _STEPS:
            size, work = decoding(arrays, bits)
            zlib_alone = functools.partial(inflate, streams_of(work))
            ours, alone = timed(repeats, ours=work, zlib=zlib_alone).values()
            report.row(
                *(name, " to ".join(map(str, bits)), size, ours.times(1e6)),
                *(ours.rate(8 * size / 1e6), ours.rate(4 * _numbers(arrays) / 1e6)),
                *(alone.rate(8 * size / 1e6), alone.per(ours)),
            )


def of_bundle(report: Report, bundle: pathlib.Path, repeats: int) -> None:
    """Prints how long a device takes to check and decode a bundle, and a link to carry it.

    Raises:
      RuntimeError: there is no bundle that can be read.
    """
    try:
        manifest = read_manifest(bundle)
        digests = [segment.sha256 for segment in manifest.segments]
        contents = {each: segment_path(bundle, each).read_bytes() for each in digests}
    except (OSError, DeliveryError) as error:
        raise RuntimeError(f"--decoded={bundle} cannot be read: {error}") from error

    def checked(sha256: str) -> bytes:
        if hashlib.sha256(contents[sha256]).hexdigest() != sha256:
            raise RuntimeError(f"--decoded={bundle}: segment {sha256} is damaged; copy it again")
        return contents[sha256]

    def work() -> object:
        return load_variables(manifest, checked)

    zlib_alone = functools.partial(inflate, streams_of(work))
    ours, alone = timed(repeats, ours=work, zlib=zlib_alone).values()
    size = sum(map(len, contents.values()))
    report.table(
        {"bundle": "", "segments": ".0f", "bytes": ",.0f", "ms at 1 Gbit/s": ".2f"}
        | {"checked and decoded, ms": ".2f", "zlib alone, ms": ".2f", "Mbit/s": ".0f"}
    )
    report.row(
        *(manifest.model_id[:8], len(contents), size, 1e3 * 8 * size / LINK_BPS),
        *(ours.times(1e3), alone.times(1e3), ours.rate(8 * size / 1e6)),
    )


def beside_nnc(
    report: Report, variables: Mapping[str, Any], python: str, qps: Sequence[int], repeats: int
) -> None:
    """Prints the whole network decoded from our encodings, and by `nncodec` where there is one.

    The error is that of the kernels: mean square, a channel's relative to its variance.
    """
    report.table(
        {"the network as": "", "bytes": ",.0f", "error": ".1e", "decode, ms": ".1f"}
        | {"Mbit/s of what is sent": ".0f", "MB/s of float32": ".1f"}
    )
    measured = Measured(segments_of(variables))
    amount = 4 * measured.weights / 1e6
    for bits in (4, 6, 8):
        contents = measured.encode_and_write(bits)
        found = measured.error(measured.decode(contents))
        work = functools.partial(measured.decode, contents)
        (ours,) = timed(repeats, ours=work).values()
        _row(report, f"{bits} bits, a segment each unit", size_of(contents), found, ours, amount)
    if not python:
        report.note("nncodec: left out; --nnc_python=PYTHON is one that has it")
        return
    flat = {path: np.asarray(x) for path, x in flatten(variables["params"]).items()}
    coded = nnc.code(nnc.sent_of(flat), python, qps)
    for qp, each in coded.items():
        found = _error(flat, each.arrays)
        _row(report, f"NNC qp {qp}", each.size_bytes, found, Sample(each.decode_s), amount)


def _row(
    report: Report, name: str, size: int, error: float, seconds: Sample, amount: float
) -> None:
    rates = seconds.rate(8 * size / 1e6), seconds.rate(amount)
    report.row(name, size, error, seconds.times(1e3), *rates)


def _error(before: Arrays, after: Arrays) -> float:
    """As that of `Measured.error`."""
    errors = []
    for path, array in after.items():
        if array.ndim > 1:
            over = tuple(range(array.ndim - 1))
            variance = np.maximum(before[path].var(axis=over), 1e-30)
            errors.append(((array - before[path]) ** 2).mean(axis=over) / variance)
    return float(np.concatenate(errors).mean())


def _numbers(arrays: Arrays) -> int:
    return sum(array.size for array in arrays.values())


if __name__ == "__main__":
    run(main, depth_n=3)
