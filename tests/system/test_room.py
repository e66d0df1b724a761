"""A full disk: known in any words, told in ours, and nothing half written is left."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

from accordion_jax.system.files import new_folder, replacing, write_whole
from accordion_jax.system.locks import Lock
from accordion_jax.system.room import FULL, NoRoomError, room_for, why_no_room
from tests.commands import ROOT

FULL_DISK = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        FULL_DISK,
        OSError(errno.EDQUOT, "in other words"),
        raised(RuntimeError("a library's"), FULL_DISK),
        raised(RuntimeError("twice"), raised(ValueError("a library's"), FULL_DISK)),
        ExceptionGroup("of tasks", [ValueError("well"), FULL_DISK]),
        ValueError("RESOURCE_EXHAUSTED: write [OS error 28: No space left on device]"),
        ValueError("Failed to write 9 bytes to file 13: File too large [os_error_code='27']"),
        NoRoomError("a/b", "words"),
    ],
    # Not by what it says: that tells the bytes that are free, which differ from moment to moment.
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_known_by_whatever_is_raised(error):
    assert why_no_room(error) in {os.strerror(code) for code in FULL}


@pytest.mark.parametrize(
    "error", [None, OSError(errno.EACCES, "no"), ValueError("File too large: 9"), KeyError(28)]
)
def test_other_errors_are_none_of_it(error):
    assert not why_no_room(error)
    if error is not None:
        with pytest.raises(type(error)) as caught, room_for("file"):
            raise error
        assert caught.value is error


def test_the_message_names_the_folder_what_is_free_and_what_to_do(tmp_path):
    with pytest.raises(NoRoomError) as caught, room_for(tmp_path / "there" / "file"):
        raise FULL_DISK
    (line,) = str(caught.value).splitlines()
    free = shutil.disk_usage(tmp_path).free
    assert line.startswith(f"no room in {tmp_path / 'there'} for file (No space left on device; ")
    assert int(line.split("; ")[1].split()[0].replace(",", "")) == pytest.approx(free, rel=0.5)
    assert line.endswith("make room, and run the same command again")
    assert caught.value.errno == errno.ENOSPC  # so that who asks for the number finds it


def test_the_file_before_stays_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "before")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise FULL_DISK

    with pytest.raises(NoRoomError, match="for file "):
        write_half()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "before")]


def test_a_folder_that_does_not_fit_leaves_nothing(tmp_path):
    def write_half():
        with new_folder(tmp_path / "folder") as folder:
            (folder / "half").write_text("half")
            raise FULL_DISK

    with pytest.raises(NoRoomError, match="for folder "):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_when_all_is_flushed(tmp_path, monkeypatch):
    def full(_descriptor):
        raise FULL_DISK

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoomError, match="for folder "), new_folder(tmp_path / "folder") as there:
        (there / "file").write_text("whole")
    assert not list(tmp_path.iterdir())


def test_a_lock_for_which_there_is_no_room(tmp_path, monkeypatch):
    lock = Lock(tmp_path / "run.lock")

    def full(**_):
        raise FULL_DISK

    monkeypatch.setattr(lock._lock, "acquire", full)
    with pytest.raises(NoRoomError, match=r"for run\.lock "):
        lock.acquire()


_COMMAND = """
import asyncio, gc, logging, threading, warnings
from absl import logging as absl_logging
from accordion_jax.system import command
from accordion_jax.system.files import replacing

def full():
    raise OSError(28, "No space left on device")

class Late:
    def __del__(self):
        full()

async def task():
    task = asyncio.create_task(asyncio.to_thread(full))
    await asyncio.sleep(0.1)

def main(argv):
    try:
        full()
    except OSError:
        absl_logging.exception("a library's words")
        logging.getLogger("asyncio").exception("a task's words")
    try:
        open("4.orbax-checkpoint-tmp/metadata", "w")
    except FileNotFoundError:
        absl_logging.exception("a late thread's words")
    thread = threading.Thread(target=full)
    thread.start()
    thread.join()
    Late()
    asyncio.run(task())
    gc.collect()
    absl_logging.error("words of something else")
    with replacing("table.json"):
        full()

command.run(main)
"""


def call(folder, *arguments, text=_COMMAND):
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_says_it_in_one_line_whatever_libraries_say(tmp_path):
    finished = call(tmp_path)
    assert finished.returncode == 1
    other, line = finished.stderr.splitlines()
    assert "words of something else" in other
    assert line.startswith("error: no room in . for table.json (No space left on device; ")


def test_that_another_file_is_missing_is_said(tmp_path):
    finished = call(tmp_path, text=_COMMAND.replace(".orbax-checkpoint-tmp", ""))
    assert "a late thread's words" in finished.stderr
    assert "FileNotFoundError" in finished.stderr


def test_what_libraries_say_is_there_for_who_asks(tmp_path):
    finished = call(tmp_path, "--verbosity=1")
    assert finished.returncode == 1
    for words in (
        "a library's words",
        "a late thread's words",
        "a task's words",
        "in thread",
        "ignored in",
        "never retr",
    ):
        assert words in finished.stderr
    assert finished.stderr.count("Traceback") >= 5
