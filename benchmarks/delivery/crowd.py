"""The endpoint under a crowd: devices that fetch at once, hostile connections, stalled readers.

    python -m benchmarks.delivery.crowd --crowd=1000 --hostile=400 --stalled=1000

Each of the devices fetches the manifest and a stream of all segments, and checks every digest; one
that is told to come again does. The hostile connections send a byte a second, hang up in the middle
of a request, never read the answer, send garbage, or headers without end. After a pause come
readers that ask for a large stream and take nothing of it. A process of its own asks for
``/healthz`` ten times a second, and looks at the memory of the endpoint.

Time on two CPU cores: five minutes.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import http.client
import itertools
import multiprocessing
import multiprocessing.connection
import pathlib
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator

from absl import flags

from accordion_jax.delivery.bundle.manifest import Manifest
from accordion_jax.delivery.bundle.reading import read_manifest
from benchmarks.delivery.setting import Address, endpoint_process, get
from benchmarks.options import JSON, run
from benchmarks.ours import write_random_bundle
from benchmarks.report import Report

_CROWD = flags.DEFINE_integer("crowd", 1000, "Devices that fetch at once.", lower_bound=0)
_ROUNDS = flags.DEFINE_integer("rounds", 6, "Fetches of each device.", lower_bound=1)
_HOSTILE = flags.DEFINE_integer("hostile", 400, "Hostile connections.", lower_bound=0)
_STALLED = flags.DEFINE_integer("stalled", 1000, "Readers that take nothing.", lower_bound=0)
_STALLED_S = flags.DEFINE_float("stalled_s", 30.0, "Seconds that they stay.", lower_bound=1)
_AFTER_S = flags.DEFINE_float("after_s", 60.0, "Seconds to the last look at the memory.", 0)

_MODEL_N = 3  # ResNet-20: 1.2 MB
_LARGE_N = 54  # ResNet-326: 21 MB
_PATIENCE_S = 300.0  # of a device with one fetch
_RECEIVE_BYTES = 1 << 16


@dataclasses.dataclass
class Watched:
    """What the watching process saw since it was last asked.

    Attributes:
      waits_s: of each answer of ``/healthz``; infinite where there was none.
      rss_bytes: resident memory of the endpoint, in the order in which it was looked at.
    """

    waits_s: list[float]
    rss_bytes: list[int]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        if found := re.search(r"VmRSS:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    return 0


def _watch(address: Address, pid: int, channel: multiprocessing.connection.Connection) -> None:
    """Asks for the health and looks at the memory until the channel says to end."""
    seen = Watched([], [])
    while True:
        began = time.monotonic()
        connection = http.client.HTTPConnection(*address, timeout=60)
        try:
            connection.request("GET", "/healthz")
            well = connection.getresponse().status == 200
        except OSError:
            well = False
        finally:
            connection.close()
        seen.waits_s.append(time.monotonic() - began if well else float("inf"))
        seen.rss_bytes.append(rss_bytes(pid))
        if channel.poll(0.1):
            if channel.recv() == "end":
                return
            channel.send(seen)
            seen = Watched([], [])


@contextlib.contextmanager
def watching(address: Address, pid: int) -> Iterator[Callable[[], Watched]]:
    """Yields what gives all that was seen since its last call."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_watch, args=(address, pid, theirs), daemon=True)
    process.start()

    def seen() -> Watched:
        ours.send("show")
        return ours.recv()

    try:
        seen()  # it has begun
        yield seen
    finally:
        ours.send("end")
        process.join()


class WrongBytesError(RuntimeError):
    """The endpoint sent bytes that are not what the manifest promised."""


@contextlib.asynccontextmanager
async def _connected(address: Address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _answer(address: Address, path: str) -> bytes:
    """The body of an answer of 200; asks again as long as it is told to."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        wait_s = 0.5
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with _connected(address) as (reader, writer):
                writer.write(get(path))
                head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
                length = re.search(r"content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
            if head.startswith("http/1.1 200"):
                return body
            if not head.startswith("http/1.1 503"):
                raise WrongBytesError(f"{path} got {head[:40]!r}")
            later = re.search(r"retry-after: (\d+)", head)
            wait_s = float(later[1]) if later else wait_s
        if time.monotonic() > until:
            raise TimeoutError(f"{path} was not answered in {_PATIENCE_S:g} s")
        await asyncio.sleep(wait_s)


async def device(address: Address, model_id: str, rounds: int, done: Counter) -> None:
    """Fetches a model so many times, and counts how that ends.

    Args:
      address: of the endpoint.
      model_id: of the model.
      rounds: fetches.
      done: counts "right", "wrong" and "not complete".
    """
    for _ in range(rounds):
        try:
            manifest = Manifest.from_bytes(await _answer(address, f"/v1/models/{model_id}"))
            wanted = list(manifest.by_sha256.values())
            asked = ",".join(segment.sha256 for segment in wanted)
            content = await _answer(address, f"/v1/models/{model_id}/stream?segments={asked}")
            ends = list(itertools.accumulate(segment.size_bytes for segment in wanted))
            starts = [0, *ends[:-1]]
            if manifest.model_id != model_id or any(
                hashlib.sha256(content[start:end]).hexdigest() != segment.sha256
                for start, end, segment in zip(starts, ends, wanted, strict=True)
            ):
                raise WrongBytesError(model_id)
            done["right"] += 1
        except (WrongBytesError, ValueError):
            done["wrong"] += 1
        except TimeoutError:
            done["not complete"] += 1


async def _byte_a_second(address: Address, path: str) -> None:
    async with _connected(address) as (_, writer):
        for byte in get(path) * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)


async def _hang_up(address: Address, path: str) -> None:
    async with _connected(address) as (_, writer):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{"
        writer.write(head.encode())
        await writer.drain()
        await asyncio.sleep(0.2)


async def stalled(address: Address, path: str) -> None:
    """Asks for something, and takes none of the answer."""
    reader, writer = await asyncio.open_connection(*address, limit=1)
    try:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(path))
        await asyncio.sleep(3600)
    finally:
        del reader
        writer.transport.abort()


async def _garbage(address: Address, _path: str) -> None:
    async with _connected(address) as (reader, writer):
        writer.write(bytes(range(256)) * 8 + b"\r\n\r\n")
        await reader.read()
        await asyncio.sleep(0.2)


async def _endless_headers(address: Address, _path: str) -> None:
    async with _connected(address) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        for number in itertools.count():
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 100))
            await writer.drain()
            await asyncio.sleep(0.01)


HOSTILE = {
    "a byte a second": _byte_a_second,
    "hang up": _hang_up,
    "stalled reader": stalled,
    "garbage": _garbage,
    "endless headers": _endless_headers,
}


async def _again_and_again(
    behave: Callable[[Address, str], Coroutine], address: Address, path: str
) -> None:
    """A hostile connection that comes back whenever it is thrown out."""
    while True:
        with contextlib.suppress(OSError):
            await behave(address, path)
        await asyncio.sleep(0.1)


async def crowd(
    address: Address, model_id: str, stream: str, *, devices: int, rounds: int, hostile: int
) -> Counter:
    """Lets devices fetch while hostile connections are there; returns how the fetches ended.

    Args:
      address: of the endpoint.
      model_id: of the model that the devices fetch.
      stream: path that the hostile ask for.
      devices: that fetch at once.
      rounds: fetches of each.
      hostile: connections, as many of each kind.
    """
    done: Counter = Counter()
    kinds = itertools.cycle(HOSTILE.values())
    enemies = [
        asyncio.create_task(_again_and_again(next(kinds), address, stream)) for _ in range(hostile)
    ]
    try:
        await asyncio.gather(*(device(address, model_id, rounds, done) for _ in range(devices)))
    finally:
        for enemy in enemies:
            enemy.cancel()
        await asyncio.gather(*enemies, return_exceptions=True)
    return done


async def stalled_readers(address: Address, stream: str, readers: int, seconds: float) -> None:
    """Lets readers ask for a stream and take nothing of it, for so many seconds."""
    tasks = [asyncio.create_task(stalled(address, stream)) for _ in range(readers)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _stream_of(bundle: pathlib.Path) -> str:
    digests = read_manifest(bundle).by_sha256
    return f"/v1/models/{bundle.name}/stream?segments={','.join(digests)}"


def main() -> None:
    """Writes two bundles, and lets both crowds loose on the endpoint, one after the other."""
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, min(hard, 65536)), hard))
    columns = {
        "crowd": "",
        "fetches right": "",
        "seconds": ".0f",
        "/healthz, worst s": ".2f",
        "RSS before, MB": ".0f",
        "at the peak": ".0f",
        f"{_AFTER_S.value:g} s after": ".0f",
    }
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_bundle(pathlib.Path(folder), _MODEL_N)
        large = write_random_bundle(pathlib.Path(folder), _LARGE_N)
        crowds = {
            f"{_CROWD.value} devices, {_HOSTILE.value} hostile": lambda address: crowd(
                *(address, model.name, _stream_of(model)),
                devices=_CROWD.value,
                rounds=_ROUNDS.value,
                hostile=_HOSTILE.value,
            ),
            f"{_STALLED.value} stalled readers of a large stream": lambda address: stalled_readers(
                address, _stream_of(large), _STALLED.value, _STALLED_S.value
            ),
        }
        with Report("the endpoint under a crowd", JSON.value) as report:
            report.table(columns)
            for name, let_loose in crowds.items():
                with (
                    endpoint_process(pathlib.Path(folder)) as (address, pid),
                    watching(address, pid) as seen,
                ):
                    time.sleep(2)
                    before = seen().rss_bytes[-1]
                    began = time.monotonic()
                    done = asyncio.run(let_loose(address))
                    seconds = time.monotonic() - began
                    during = seen()
                    time.sleep(_AFTER_S.value)
                    after = seen()
                report.row(
                    name,
                    f"{done['right']} of {sum(done.values())}" if done else "-",
                    seconds,
                    max(during.waits_s),
                    before / 1e6,
                    max(during.rss_bytes) / 1e6,
                    after.rss_bytes[-1] / 1e6,
                )


if __name__ == "__main__":
    run(main)
