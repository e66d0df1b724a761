"""How every command of this package starts, logs and fails.

A command that cannot do what it was asked for writes one line that begins ``error:`` to standard
error, and ends with exit code 1. What it prints is what was asked for; the rest is a log. Where the
disk is full, that line is all: a library may say the same from several threads, each time with a
traceback. ``--verbosity=1`` shows these, and the traceback of the line itself.
"""

import io
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import tqdm
from absl import app, flags
from absl import logging as absl_logging

from accordion_jax.system.room import why_no_room
from accordion_jax.system.text import printable

_log = logging.getLogger("accordion_jax")
# In the names of what Orbax has not finished writing.
_UNFINISHED = ".orbax-checkpoint-tmp"


class CommandError(Exception):
    """What a person asked for cannot be done; the message says why, and what to do."""


def run(
    main: Callable[[list[str]], None],
    *,
    errors: tuple[type[BaseException], ...] = (),
    parse: Callable[[list[str]], list[str]] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses flags and runs a command, with lines a person can act on in place of tracebacks.

    Args:
      main: is given what is left of the command line after its flags, the program's name first.
      errors: of the rooms that it uses, beside ValueError, OSError and `CommandError`.
      parse: parses the flags; raises one of these errors.
      argv: the command line; that of the process where None.
    """
    caught: tuple[type[BaseException], ...] = (
        CommandError,
        ValueError,
        OSError,
        app.UsageError,
        flags.Error,
        *errors,
    )

    def parsed(arguments: list[str]) -> list[str]:
        try:
            return parse(arguments) if parse else flags.FLAGS(arguments)
        except caught as error:
            fail(error)

    def guarded(arguments: list[str]) -> None:
        try:
            main(arguments)
        except caught as error:
            _log.debug("traceback", exc_info=True)
            fail(error)

    def fail(error: BaseException) -> NoReturn:
        lines = str(error).splitlines() or [type(error).__name__]
        print("error:", "\n".join(map(printable, lines)), file=sys.stderr, flush=True)
        sys.exit(1)

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal of another encoding shows "?" for what it lacks: no reason to fail at the end.
        sys.stdout.reconfigure(errors="replace")
    absl_logging.set_verbosity(absl_logging.WARNING)
    _leave_a_full_disk_to_us()
    _answer_help(sys.argv if argv is None else argv, main)
    app.run(guarded, argv=None if argv is None else list(argv), flags_parser=parsed)


def _answer_help(argv: Sequence[str], main: Callable) -> None:
    """Prints a command's own text and flags where that is all that was asked for."""
    if any(each in ("--help", "-h", "-help") for each in argv[1:]):
        module = sys.modules[main.__module__]
        print((module.__doc__ or "").strip())
        print("\nflags:\n")
        print(flags.FLAGS.module_help(module))
        sys.exit(0)


def _leave_a_full_disk_to_us() -> None:
    """Keeps what libraries say of a full disk from the screen, by whatever way it comes there."""

    def is_for_us(error: BaseException | None) -> bool:
        # A late thread of Orbax finds that the checkpoint is gone which had no room.
        gone = isinstance(error, FileNotFoundError) and _UNFINISHED in str(error.filename)
        return not _is_verbose() and (gone or bool(why_no_room(error)))

    absl_logging.use_absl_handler()
    absl_logging.get_absl_handler().addFilter(
        lambda record: not is_for_us(record.exc_info[1] if record.exc_info else None)
    )
    in_thread, unraisable = threading.excepthook, sys.unraisablehook

    def of_thread(arguments: Any) -> None:
        if not is_for_us(arguments.exc_value):
            in_thread(arguments)

    def of_nobody(arguments: Any) -> None:
        # The library below Orbax tells each file that it wrote to whoever waited for all of them,
        # and has gone at the first that failed.
        late = str(arguments.exc_value) == "Event loop is closed" and not _is_verbose()
        if not late and not is_for_us(arguments.exc_value):
            unraisable(arguments)

    threading.excepthook, sys.unraisablehook = of_thread, of_nobody


def _is_verbose() -> bool:
    return absl_logging.get_verbosity() >= absl_logging.DEBUG


def renamed(names: Mapping[str, str]) -> None:
    """Refuses flags of old names, and says the new ones.

    Args:
      names: old name -> new flag, with its unit where that is another.
    """
    for name, now in names.items():
        flags.DEFINE_string(name, None, f"Is now {now}.")
        message = f"--{name} is now {now}"
        flags.register_validator(name, lambda value: value is None, message)


class _BesideTheBar(logging.Handler):
    """Writes log lines above the progress bar, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.tqdm.write(self.format(record), file=sys.stderr)


def show_log(level: int = logging.INFO) -> None:
    """Shows this package's log on standard error; those of its libraries as absl does: warnings."""
    level = logging.DEBUG if _is_verbose() else level
    handler = _BesideTheBar()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    _log.handlers, _log.propagate = [handler], False
    _log.setLevel(level)
