"""The first request to a server, and its answer: a front whose segments may still be on the way."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence

import httpx

from accordion_jax.delivery.bundle.front import read_head
from accordion_jax.delivery.bundle.parts import Segment
from accordion_jax.delivery.device import answers
from accordion_jax.delivery.errors import ConnectionLostError, TransportError
from accordion_jax.delivery.planner import Requirements


@dataclasses.dataclass(frozen=True)
class Opening:
    """What a device says in its first request to an endpoint.

    Attributes:
      requirements: of which the endpoint makes its plan; None asks for the smallest configuration.
      known: model_id of a manifest that the device has.
      held: digests of segments that it has.
      part: the first segment that it lacks, and how many bytes of it are there already; None: none.
      line: whose latest is wanted.
      wants_release: whether a key is pinned.
    """

    requirements: Requirements | None = None
    known: str | None = None
    held: frozenset[str] = frozenset()
    part: tuple[str, int] | None = None
    line: str | None = None
    wants_release: bool = False

    def to_bytes(self) -> bytes:
        """Returns the body of the request."""
        document = {
            "requirements": None if self.requirements is None else self.requirements.to_dict(),
            "manifest": self.known,
            "held": sorted(self.held) or None,
            "part": self.part and {"sha256": self.part[0], "received_bytes": self.part[1]},
            "release": self.wants_release or None,
        }
        return json.dumps({k: v for k, v in document.items() if v is not None}).encode()


class OpenAnswer:
    """A front as it arrives. Its head is here; its segments are read when they are wanted.

    Any thread may read it, one at a time.

    Args:
      asked: opens an answer of success, its body unread; left when that was read, or is no use.
      name: of the address, for errors.
      check: is called after each piece of the head; raises when it is time to give up.
      on_segment_bytes: is called with the size of each piece of segments that is used or thrown
        away.

    Attributes:
      head: not checked against anything.
      head_bytes: of the body that the head took.

    Raises:
      ManifestError: the answer is no front, as `read_head`.
      ConnectionLostError: it is cut.
      TransportError: it is coded in an unknown way.
    """

    def __init__(
        self,
        asked: contextlib.AbstractContextManager[httpx.Response],
        name: str,
        *,
        check: Callable[[int], None],
        on_segment_bytes: Callable[[int], None],
    ):
        self._name, self._check, self._count = name, check, on_segment_bytes
        self._rest = b""
        self.head_bytes = 0
        # What is due from here on: segments, and the bytes of the first that came or were left out.
        self._due: list[Segment] = []
        self._offset = 0
        self._is_sized = False
        with contextlib.ExitStack() as stack:
            self._response = stack.enter_context(asked)
            if self._response.status_code != 200:
                raise TransportError(f"{name} answered {self._response.status_code}; wanted 200")
            self._pieces = answers.content(self._response, name)
            self.head = read_head(self._take, name)
            # Whatever goes wrong before this closes the answer.
            self._stack = stack.pop_all()

    def expect(self, segments: Sequence[Segment]) -> None:
        """Says what follows the head: those that it names, of a manifest that was checked."""
        self._due, self._offset = list(segments), self.head.offset
        whole = self.head_bytes - self._offset + sum(segment.size_bytes for segment in segments)
        announced = self._response.headers.get("Content-Length")
        self._is_sized = announced == str(whole) and not answers.coding(self._response)
        self._drop_complete()

    def goes_on_with(self, segment: Segment, offset: int) -> bool:
        """Whether the next byte is this one of this segment."""
        return bool(self._due) and self._due[0].sha256 == segment.sha256 and self._offset == offset

    def read(self, wanted: Sequence[Segment]) -> Iterator[bytes]:
        """Yields the bytes of segments, as far as they are those that follow here.

        What is left unread stays for the next call. Whatever is raised, nothing more can be read.

        Args:
          wanted: in the order wanted; the first is due.

        Raises:
          ConnectionLostError: the answer is cut.
        """
        common = 0
        for due, segment in zip(self._due, wanted, strict=False):
            if due.sha256 != segment.sha256:
                break
            common += due.size_bytes
        left = common - self._offset
        while left:
            try:
                piece = self._rest or self._next()
            except TransportError:
                self.close()
                raise
            if not piece:
                self.close()
                raise ConnectionLostError(f"{self._name} ended before its segments did")
            piece, self._rest = piece[:left], piece[left:]
            left -= len(piece)
            self._offset += len(piece)
            self._count(len(piece))
            self._drop_complete()
            yield piece

    def close(self) -> None:
        """Reads no further; the connection is kept only if all has been read."""
        self._count(len(self._rest))
        self._rest, self._due = b"", []
        self._stack.close()

    def _drop_complete(self) -> None:
        while self._due and self._offset >= self._due[0].size_bytes:
            self._offset -= self._due.pop(0).size_bytes
        if not self._due:
            # Of an answer that says how long it is, the end comes with its last byte: read to it, a
            # connection carries the next request too. Of any other nobody knows when it ends.
            if self._is_sized and not self._rest:
                with contextlib.suppress(ConnectionLostError):
                    self._next()
            self.close()

    def _take(self, count: int) -> bytes:
        """Exactly so many bytes of the head."""
        found, missing = [], count
        while missing:
            piece = self._rest or self._next()
            if not piece:
                raise ConnectionLostError(f"{self._name} ended {missing} bytes early")
            found.append(piece[:missing])
            self._rest = piece[missing:]
            came = len(found[-1])
            missing -= came
            self.head_bytes += came
            self._check(came)
        return b"".join(found)

    def _next(self) -> bytes:
        """The next piece of the body; none at its end."""
        try:
            return next((piece for piece, _ in self._pieces if piece), b"")
        except httpx.HTTPError as error:
            raise ConnectionLostError(f"{self._name}: {type(error).__name__}: {error}") from error
