"""Checkpoints: written while training goes on; the last ones and the best are kept."""

import contextlib
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jmeta._core import extras
from jmeta._core.typing import PyTree
from jmeta.train import _files, _manifest, _settings
from jmeta.train._device import State


class Best(NamedTuple):
    """The parameters with the lowest validation loss; among equals, the latest.

    Attributes:
        value: The validation loss.
        step: The number of steps taken until then.
        params: The parameters, as numpy arrays.
    """

    value: float
    step: int
    params: PyTree


class Checkpoints:
    """The folder `checkpoints` of a run's directory.

    Orbax writes a checkpoint under a temporary name and renames it once it is whole. A
    process killed at any moment therefore leaves only whole checkpoints.

    Args:
        directory: The run's directory.
        keep: How many of the last checkpoints are kept.

    Raises:
        OSError: The folder cannot be read.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._ocp = extras.load(
            "orbax.checkpoint",
            "train",
            wanted_by="`directory=`",
            instead="leave `directory` out, which keeps nothing",
        )
        self.directory = directory
        self._folder = directory / "checkpoints"
        self._settings: _settings.Settings = {}
        self._best_step: int | None = None
        self._writing: int | None = None
        with self._explain_errors(
            f"The checkpoints in {self._folder} cannot be listed"
        ):
            self._manager = self._ocp.CheckpointManager(
                self._folder,
                item_handlers={"state": self._handler()},
                options=self._ocp.CheckpointManagerOptions(
                    # Orbax's own `best_fn` would delete the latest checkpoint, and
                    # it forgets the metrics of those that an earlier process wrote.
                    preservation_policy=_LatestAndBest(self, keep),
                    cleanup_tmp_directories=True,
                ),
            )

    def store_or_compare_settings(self, settings: _settings.Settings) -> None:
        """Store the settings of a new run, or compare them with those of an old one.

        Args:
            settings: Key, shapes and dtypes of this run, by name.

        Raises:
            ValueError: The run in the directory began with other settings, or there
                are files that `fit` did not write.
            OSError: The settings cannot be read or written.
        """
        steps = self._steps()
        self._settings = _settings.store_or_compare(
            self.directory, settings, bool(steps), self._settings_in_checkpoint
        )

    def save(self, state: State, best: Best | None) -> None:
        """Begin to write a checkpoint, unless there is one of this step already.

        Args:
            state: The state to save.
            best: The best parameters so far; their checkpoint is kept.

        Raises:
            OSError: This checkpoint or the one before cannot be written.
        """
        self.wait()
        step = int(state.step)
        if step in self._steps():
            return
        self._best_step = None if best is None else best.step
        leaves = {f"{i:05d}": x for i, x in enumerate(map(to_host, _raw_leaves(state)))}
        leaves["best"] = np.array([np.nan, -1] if best is None else best[:2])
        # Orbax refuses arrays without entries, and they need no saving.
        leaves = {name: x for name, x in leaves.items() if x.size}
        leaves["checksum"] = _checksum(leaves)
        args = self._ocp.args.Composite(state=self._ocp.args.StandardSave(leaves))
        self._writing = step
        with self._explain_write_errors():
            self._manager.save(step, args=args, force=True)

    def check(self) -> None:
        """Raise what made the last write fail, without waiting for one in progress.

        Raises:
            OSError: The checkpoint could not be written.
        """
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            OSError: The checkpoint could not be written.
        """
        with self._explain_write_errors():
            self._manager.wait_until_finished()
        self._writing = None

    def latest(self, like: State) -> tuple[State, Best | None] | None:
        """Read the last state and the best parameters.

        A checkpoint whose content is not what was written is moved to the folder
        `damaged`, with a warning.

        Args:
            like: A state with the structure, dtypes and devices of the result.

        Returns:
            The state and the best parameters, if any; None without a checkpoint.

        Raises:
            OSError: A checkpoint cannot be read. It is not moved then.
        """
        for step in self._steps():
            saved = self._read(step)
            if saved is None:
                continue
            state = _restore_state(saved, like)
            value, best_step = float(saved["best"][0]), int(saved["best"][1])
            # A missing best checkpoint was beaten by a later step than this state's.
            # The run goes on from this state and finds the better one again.
            saved = self._read(best_step) if best_step in self._steps() else None
            if saved is None:
                return state, None
            params = jax.tree.map(to_host, _restore_state(saved, like).params)
            return state, Best(value, best_step, params)
        return None

    def close(self) -> None:
        """Wait until the last checkpoint is written, and end Orbax's manager.

        Raises:
            OSError: The checkpoint could not be written.
        """
        try:
            self.wait()
        finally:
            with self._explain_write_errors():
                self._manager.close()

    def _handler(self):
        """Orbax's handler, which also writes the manifest just before the renaming."""
        handler = self._ocp.StandardCheckpointHandler()
        finalize = handler.finalize

        def finalize_and_list(folder):
            finalize(folder)
            _manifest.write(Path(folder), self._settings)

        # A subclass would have to be registered with Orbax's arguments.
        handler.finalize = finalize_and_list
        return handler

    def _steps(self) -> list[int]:
        """The steps that have checkpoints, the latest first."""
        with self._explain_errors(
            f"The checkpoints in {self._folder} cannot be listed"
        ):
            return sorted(self._manager.all_steps(), reverse=True)

    def _settings_in_checkpoint(self) -> _settings.Settings | None:
        """The settings in the last whole checkpoint; None without one."""
        for step in self._steps():
            with (
                self._explain_read_errors(step),
                contextlib.suppress(_manifest.Damaged),
            ):
                return _manifest.check(self._folder / str(step) / "state")
        return None

    def _read(self, step):
        """What was saved; None of a damaged checkpoint, which is moved to `damaged`."""
        folder = self._folder / str(step) / "state"
        try:
            with self._explain_read_errors(step):
                _manifest.check(folder)
                restore = self._ocp.args.StandardRestore()
                args = self._ocp.args.Composite(state=restore)
                saved = self._manager.restore(step, args=args)["state"]
            if saved.pop("checksum") != _checksum(saved):
                raise _manifest.Damaged("the checksum of its numbers differs")
        except _manifest.Damaged as damage:
            self._move_to_damaged(step, damage)
            return None
        return saved

    def _move_to_damaged(self, step, damage):
        path = self._folder / str(step)
        with self._explain_errors(f"The damaged checkpoint {path} cannot be moved"):
            aside = _files.path_in_damaged(path, self.directory)
            path.rename(aside)
            self._manager.reload()
        warnings.warn(
            f"The checkpoint of step {step} cannot be read and was moved to {aside}:"
            f" {damage}. The run goes on without it.",
            stacklevel=5,
        )

    @contextlib.contextmanager
    def _explain_errors(self, problem, use="Mend that and make the same call again."):
        """Raise any error of Orbax as an `OSError` that says what failed.

        Damaged content and a lack of memory keep their own errors.
        """
        try:
            yield
        except (_manifest.Damaged, MemoryError):
            raise
        except Exception as error:
            raise _files.explained_error(problem, error, use) from error

    def _explain_read_errors(self, step):
        return self._explain_errors(
            f"The checkpoint of step {step} in `directory` {self.directory} cannot be"
            " read",
            "Nothing was moved or written over: make the same call again when it can"
            f" be. To go on without it, move {self._folder / str(step)} away.",
        )

    def _explain_write_errors(self):
        return self._explain_errors(
            f"The checkpoint of step {self._writing} cannot be written to `directory`"
            f" {self.directory}",
            "Those before it are whole: mend that and make the same call to go on from"
            " the last one.",
        )


class _LatestAndBest:
    """Orbax's `PreservationPolicy`: keep the last checkpoints and the best one."""

    def __init__(self, checkpoints: Checkpoints, keep: int) -> None:
        self._checkpoints, self._keep = checkpoints, keep

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        del context
        best = self._checkpoints._best_step
        latest = {x.step for x in checkpoints[-self._keep :]}
        return [x.step in latest or x.step == best for x in checkpoints]


def to_host(leaf: ArrayLike) -> np.ndarray:
    """Copy a leaf to the host.

    The copy stays valid when the device's buffer is donated later.
    """
    return np.array(jax.device_get(leaf))


def _raw_leaves(tree):
    """The leaves; a typed key becomes its integers."""
    return [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]


def _checksum(leaves):
    total = 0
    for name in sorted(leaves):
        total = zlib.crc32(np.ascontiguousarray(leaves[name]).tobytes(), total)
    return np.asarray(total, np.uint32)


def _restore_state(saved, like):
    """Rebuild a saved state with the structure and on the devices of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    placed = []
    for i, (leaf, data) in enumerate(zip(leaves, _raw_leaves(like), strict=True)):
        empty = np.zeros(data.shape, data.dtype)
        value = saved[f"{i:05d}"] if data.size else empty
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            value = jax.random.wrap_key_data(jnp.asarray(value), impl=impl)
        placed.append(jax.device_put(value, leaf.sharding))
    return treedef.unflatten(placed)


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
