"""A disk that is full: known by whatever a library says of it, and told in words."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

# The disk has no room, the user's quota is used up, or a file may not get larger.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Libraries in other languages give words alone, or (tensorstore) the code among them. The words of
# EFBIG may mean anything.
_IN_WORDS = FULL - {errno.EFBIG}


class NoRoomError(OSError):
    """A file could not be written, since the disk is full.

    Attributes:
      path: of the file or folder.
      why: the system's words.
    """

    def __init__(self, path: str | os.PathLike, why: str, then: str = ""):
        """Says how much is free now.

        Args:
          path: of what could not be written.
          why: the system's words.
          then: what the same command does once there is room.
        """
        self.path, self.why = pathlib.Path(path), why
        super().__init__(
            f"no room in {self.path.parent} for {self.path.name} ({why}; {_free(self.path)}); "
            f"make room, and run the same command again{then and ': '}{then}"
        )
        self.errno = errno.ENOSPC


def why_no_room(error: BaseException | None) -> str:
    """Returns the system's words where an error is for want of room; empty where it is not.

    Libraries wrap an error of the system in their own, or keep its text alone: what caused it, what
    was being handled, and what a group holds are looked at too.
    """
    seen: set[int] = set()
    to_see = [error]
    while to_see:
        each = to_see.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        for code in FULL:
            words = os.strerror(code)
            in_words = f"os_error_code='{code}'" in str(each) or (
                code in _IN_WORDS and words in str(each)
            )
            if code == getattr(each, "errno", None) or in_words:
                return words
        to_see += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return ""


@contextlib.contextmanager
def room_for(path: str | os.PathLike) -> Iterator[None]:
    """Names a file in place of whatever is raised where the disk has no room for it.

    Raises:
      NoRoomError: the disk is full; other errors pass as they are.
    """
    try:
        yield
    except NoRoomError:
        raise
    except Exception as error:
        if not (why := why_no_room(error)):
            raise
        raise NoRoomError(path, why) from error


def _free(path: pathlib.Path) -> str:
    """How much room there is, in words."""
    for folder in path.absolute().parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free:,} bytes are free"
    return "nobody knows how much is free"
