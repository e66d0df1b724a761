"""Checkpoints with Orbax: the latest k and the best one, whole or not at all."""

import contextlib
import logging
import os
import pathlib
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from accordion_jax.runs.folder import check_path
from accordion_jax.system.room import NoRoomError, room_for
from accordion_jax.training.state import TrainState, Tree

# What Orbax warns of and is meant: most checkpoints are not evaluated; who reads does not write.
_MEANT = ("Requested `tracked_metric`", "Given directory is read only", "read_only=True, setting")
logging.getLogger("absl").addFilter(
    lambda record: not any(each in str(record.msg) for each in _MEANT)
)


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, missing, or of another network."""


class Checkpoints:
    """The checkpoints of one run, in ``<folder>/<step>``.

    Orbax writes a checkpoint under a temporary name and renames it when it is whole, so a process
    that is killed leaves the one before. A checksum of all arrays guards against damage after that,
    and the first one that is written is looked at anew: what cannot be read is known at once.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2, *, read_only: bool = False):
        """Opens the folder, making it where it does not exist.

        Args:
          folder: of this run alone.
          keep: how many of the latest to keep; the best is kept besides.
          read_only: never write, and fail where there is no folder.

        Raises:
          CheckpointError: read-only, and there is no such folder.
          NoRoomError: the disk is full.
          ValueError: the path is one that Orbax takes for a pattern.
        """
        check_path(folder)
        self.folder = pathlib.Path(folder).absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"no checkpoints in {self.folder}: the folder does not exist")
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            best_fn=lambda metrics: metrics["error"],
            best_mode="min",
            cleanup_tmp_directories=not read_only,
            # Several runs may be saved at once; one's barrier must not be taken for another's.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=self.folder.parent.name
            ),
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [
                    preservation_policy.LatestN(keep),
                    preservation_policy.BestN(
                        get_metric_fn=lambda metrics: -metrics["error"],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )
        with room_for(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(),
                    "checksum": ocp.JsonCheckpointHandler(),
                },
            )
        # Of those that `save` wrote: the newest that is whole, and the one that is being written.
        self._saved: int | None = self._manager.latest_step()
        self._started: int | None = None
        self._verified = False

    def save(
        self,
        step: int,
        state: TrainState,
        metrics: dict[str, float] | None = None,
        unrecorded: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Starts to write the state of a step; does nothing where the step is there already.

        The first call waits until it is written, and reads its structure back.

        Args:
          step: taken so far.
          state: as NumPy arrays of their own, which nobody changes.
          metrics: with "error", by which the best checkpoint is chosen; None: not a candidate.
          unrecorded: numbers of the newest steps that no record of the metrics holds yet.

        Raises:
          CheckpointError: the first one cannot be read back; names it.
          NoRoomError: the disk is full, now or as the one before was written; those that were
            whole still are.
        """
        if step in self._manager.all_steps():
            return
        facts = {"crc32": _checksum(state._asdict()), "unrecorded": dict(unrecorded or {})}
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state._asdict()), checksum=ocp.args.JsonSave(facts)
        )
        with self._room(step):
            self._manager.save(step, args=arguments, metrics=metrics)
        # Orbax starts one only when the one before is whole.
        self._saved, self._started = self._started or self._saved, step
        if not self._verified:
            self.wait()
            self._verify(step, state)
            self._verified = True

    def wait(self) -> None:
        """Returns when what `save` started is on disk.

        Raises:
          NoRoomError: the disk is full.
        """
        with self._room():
            self._manager.wait_until_finished()
        self._saved, self._started = self._started or self._saved, None

    @property
    def saved(self) -> int | None:
        """The newest step that is whole on the disk; None where there is none."""
        # The folder gets its name when all in it is written.
        if self._started is not None and (self.folder / str(self._started)).is_dir():
            return self._started
        return self._saved

    @contextlib.contextmanager
    def _room(self, step: int | None = None) -> Iterator[None]:
        """Names the checkpoint that the disk has no room for.

        Args:
          step: of the checkpoint, where none that is being written has been started before.
        """
        # Orbax tells late what went wrong with the one before.
        step = step if self._started is None else self._started
        with room_for(self.folder if step is None else self.folder / str(step)):
            yield

    def remove_unfinished(self) -> None:
        """Deletes what there is of a checkpoint that could not be written, once `close` is done.

        It would leave no room to say how the run ended.
        """
        for _ in range(20):  # threads of the library below Orbax may still write
            left = list(self.folder.glob("*.orbax-checkpoint-tmp*"))
            if not left and shutil.disk_usage(self.folder).free:
                return
            for each in left:
                shutil.rmtree(each, ignore_errors=True)
            time.sleep(0.05)

    def _verify(self, step: int, state: TrainState) -> None:
        """Reads the structure of a checkpoint from the disk, as another process would."""
        path = self.folder / str(step)
        reader = Checkpoints(self.folder, read_only=True)
        try:
            tree = reader._manager.item_metadata(step).state.tree
            found = {name: (tuple(x.shape), np.dtype(x.dtype)) for name, x in _leaves(tree).items()}
        except Exception as error:  # Orbax, tensorstore and json each have their own
            raise CheckpointError(
                f"checkpoint {path} was written, and cannot be read ({type(error).__name__}: "
                f"{error}); use a --workdir on another file system"
            ) from error
        finally:
            reader.close()
        wanted = {name: (x.shape, x.dtype) for name, x in _leaves(state._asdict()).items()}
        if differing := sorted(
            name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
        ):
            raise CheckpointError(
                f"checkpoint {path} was written, and reads differently: {differing[0]!r} is "
                f"{found.get(differing[0])}, {wanted.get(differing[0])} was written; use a "
                "--workdir on another file system"
            )

    def close(self) -> None:
        """Waits, then ends the manager's threads.

        Raises:
          NoRoomError: as `wait`.
        """
        with self._room():
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Those that there are, in order."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The newest step, or None where there is no checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the least evaluated error, or None where none was evaluated."""
        errors = {}
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics and "error" in metrics:
                errors[step] = metrics["error"]
        return min(errors, key=lambda step: (errors[step], step), default=None)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step, as NumPy arrays.

        Args:
          step: one that is there.
          like: a state whose shapes and types it must have (arrays or shapes).

        Raises:
          CheckpointError: damaged, or a leaf is missing, unknown, or of another shape or type;
            names the leaf and both shapes, and what to do.
        """
        path = self.folder / str(step)
        try:
            # Each leaf as it was written: what it should have been is checked below, in words.
            tree = self._manager.item_metadata(step).state.tree
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        restore_args=jax.tree.map(
                            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
                        ),
                    ),
                    checksum=ocp.args.JsonRestore(),
                ),
            )
            wanted = restored["checksum"]["crc32"]
        except Exception as error:  # Orbax, tensorstore and json each have their own
            raise CheckpointError(
                f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); "
                f"{self._remedy(step)}"
            ) from error
        state = restored["state"]
        if (found := _checksum(state)) != wanted:
            raise CheckpointError(
                f"checkpoint {path} is damaged: its arrays have checksum {found}, {wanted} was "
                f"written; {self._remedy(step)}"
            )
        return _as_state(state, like, path)

    def unrecorded(self, step: int) -> dict[str, list[float]]:
        """Returns what `save` was given of the steps that no record of the metrics holds yet.

        Args:
          step: one that has been restored.
        """
        restored = self._manager.restore(
            step, args=ocp.args.Composite(checksum=ocp.args.JsonRestore())
        )
        return restored["checksum"].get("unrecorded", {})  # not in those of earlier versions

    def _remedy(self, step: int) -> str:
        """What to do about a damaged checkpoint; it may hold what no other copy does."""
        others = [each for each in self.steps if each != step]
        if not others:
            return (
                "there is no other checkpoint: put a copy of that folder in its place, or train "
                "anew with another --workdir"
            )
        return (
            f"move that folder out of {self.folder} and run the same command: it goes on from "
            f"step {max(others)}"
        )


@contextlib.contextmanager
def saying_what_is_saved(checkpoints: Sequence[Checkpoints]) -> Iterator[None]:
    """Says, where the disk is full, from which step the same command goes on.

    Args:
      checkpoints: of runs that are trained at once.
    """
    try:
        yield
    except NoRoomError as error:
        if jax.process_index() == 0:
            for each in checkpoints:
                each.remove_unfinished()
        saved = [each.saved or 0 for each in checkpoints]
        step = min(saved, default=0)
        then = f"it goes on from step {step}, the last that is saved" if step else "it starts anew"
        raise NoRoomError(error.path, error.why, then) from error


def _leaves(tree: Tree) -> dict[str, Any]:
    """Path of each leaf, such as ``params/stem/conv/kernel``, in a stable order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): x
        for path, x in paths
    }


def _checksum(tree: Tree) -> int:
    """CRC-32 over names, types and bytes of all arrays."""
    crc = 0
    for name, leaf in sorted(_leaves(tree).items()):
        array = np.ascontiguousarray(leaf)
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.tobytes(), crc)
    return crc


def _as_state(tree: Tree, like: TrainState, path: pathlib.Path) -> TrainState:
    """The restored dictionary in the structure of `like`, leaf by leaf."""
    found, wanted = _leaves(tree), _leaves(like)
    for name in sorted(wanted.keys() ^ found.keys()):
        problem = "lacks" if name in wanted else "has the unknown"
        raise CheckpointError(
            f"checkpoint {path} {problem} leaf {name!r}: it is of another network or optimizer"
        )
    for name, leaf in wanted.items():
        got = found[name]
        if got.shape != leaf.shape or got.dtype != leaf.dtype:
            raise CheckpointError(
                f"checkpoint {path}: leaf {name!r} is {got.dtype}{list(got.shape)}; this network "
                f"wants {leaf.dtype}{list(leaf.shape)}"
            )
    _, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [np.asarray(found[name]) for name in wanted])
