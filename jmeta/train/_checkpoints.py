"""Checkpoints: written beside the training, the last ones and the best kept."""

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
    """The parameters that validated best, the later ones of equals.

    Attributes:
        value: Their validation loss.
        step: How many steps they had taken.
        params: On the host.
    """

    value: float
    step: int
    params: PyTree


class Checkpoints:
    """The folder `checkpoints` of a run's directory.

    Orbax writes a checkpoint under a temporary name and renames it when it is whole,
    so that a process killed at any moment leaves whole ones.

    Args:
        directory: Of the run.
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
        with self._named(f"The checkpoints in {self._folder} cannot be listed"):
            self._manager = self._ocp.CheckpointManager(
                self._folder,
                item_handlers={"state": self._handler()},
                options=self._ocp.CheckpointManagerOptions(
                    # orbax's own `best_fn` would delete the latest, and forgets the
                    # metrics of what an earlier process wrote
                    preservation_policy=_LatestAndBest(self, keep),
                    cleanup_tmp_directories=True,
                ),
            )

    def claim(self, settings: _settings.Settings) -> None:
        """Begin a run, or go on with one that began with these settings, by name.

        Raises:
            ValueError: The run in the directory began with others, or there are files
                that `fit` did not write.
            OSError: The settings cannot be read or written.
        """
        steps = self._steps()
        self._settings = _settings.claim(
            self.directory, settings, bool(steps), self._recorded
        )

    def save(self, state: State, best: Best | None) -> None:
        """Begin to write a checkpoint; what is there already is left as it is.

        Raises:
            OSError: This one or the one before cannot be written.
        """
        self.wait()
        step = int(state.step)
        if step in self._steps():
            return
        self._best_step = None if best is None else best.step
        leaves = {f"{i:05d}": x for i, x in enumerate(map(to_host, _data(state)))}
        leaves["best"] = np.array([np.nan, -1] if best is None else best[:2])
        # orbax refuses arrays without entries, which need no saving
        leaves = {name: x for name, x in leaves.items() if x.size}
        leaves["checksum"] = _checksum(leaves)
        args = self._ocp.args.Composite(state=self._ocp.args.StandardSave(leaves))
        self._writing = step
        with self._named_write():
            self._manager.save(step, args=args, force=True)

    def check(self) -> None:
        """Find out whether a checkpoint could be written, without waiting for it.

        Raises:
            OSError: It could not.
        """
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: It could not be.
        """
        with self._named_write():
            self._manager.wait_until_finished()
        self._writing = None

    def latest(self, like: State) -> tuple[State, Best | None] | None:
        """The last state and the best parameters; None where there is no checkpoint.

        Structure, dtypes and devices are those of `like`. A checkpoint whose content is
        not what was written is moved to the folder `damaged`, with a warning.

        Raises:
            OSError: A checkpoint cannot be read, which moves nothing.
        """
        for step in self._steps():
            saved = self._read(step)
            if saved is None:
                continue
            state = _state(saved, like)
            value, best_step = float(saved["best"][0]), int(saved["best"][1])
            # not there: a later one was better, and will be found again
            saved = self._read(best_step) if best_step in self._steps() else None
            if saved is None:
                return state, None
            params = jax.tree.map(to_host, _state(saved, like).params)
            return state, Best(value, best_step, params)
        return None

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: It could not be.
        """
        try:
            self.wait()
        finally:
            with self._named_write():
                self._manager.close()

    def _handler(self):
        """Orbax's, with the manifest as the last thing before the renaming."""
        handler = self._ocp.StandardCheckpointHandler()
        finalize = handler.finalize

        def finalize_and_list(folder):
            finalize(folder)
            _manifest.write(Path(folder), self._settings)

        # a class of its own would have to be registered with orbax's arguments
        handler.finalize = finalize_and_list
        return handler

    def _steps(self) -> list[int]:
        """The latest first."""
        with self._named(f"The checkpoints in {self._folder} cannot be listed"):
            return sorted(self._manager.all_steps(), reverse=True)

    def _recorded(self) -> _settings.Settings | None:
        """The settings in the last whole checkpoint."""
        for step in self._steps():
            with self._named_read(step), contextlib.suppress(_manifest.Damaged):
                return _manifest.check(self._folder / str(step) / "state")
        return None

    def _read(self, step):
        """What was saved, or None if it is damaged; it is out of the way then."""
        folder = self._folder / str(step) / "state"
        try:
            with self._named_read(step):
                _manifest.check(folder)
                restore = self._ocp.args.StandardRestore()
                args = self._ocp.args.Composite(state=restore)
                saved = self._manager.restore(step, args=args)["state"]
            if saved.pop("checksum") != _checksum(saved):
                raise _manifest.Damaged("the checksum of its numbers differs")
        except _manifest.Damaged as damage:
            self._set_aside(step, damage)
            return None
        return saved

    def _set_aside(self, step, damage):
        path = self._folder / str(step)
        with self._named(f"The damaged checkpoint {path} cannot be moved"):
            aside = _files.set_aside(path, self.directory)
            path.rename(aside)
            self._manager.reload()
        warnings.warn(
            f"The checkpoint of step {step} cannot be read and was moved to {aside}:"
            f" {damage}. The run goes on without it.",
            stacklevel=5,
        )

    @contextlib.contextmanager
    def _named(self, problem, use="Mend that and make the same call again."):
        """Whatever orbax makes of an error, it is none of what is in the files."""
        try:
            yield
        except (_manifest.Damaged, MemoryError):
            raise
        except Exception as error:
            raise _files.failure(problem, error, use) from error

    def _named_read(self, step):
        return self._named(
            f"The checkpoint of step {step} in `directory` {self.directory} cannot be"
            " read",
            "Nothing was moved or written over: make the same call again when it can"
            f" be. To go on without it, move {self._folder / str(step)} away.",
        )

    def _named_write(self):
        return self._named(
            f"The checkpoint of step {self._writing} cannot be written to `directory`"
            f" {self.directory}",
            "Those before it are whole: mend that and make the same call to go on from"
            " the last one.",
        )


class _LatestAndBest:
    """Orbax's `PreservationPolicy`."""

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
    """A copy, which the device may not write over."""
    return np.array(jax.device_get(leaf))


def _data(tree):
    """The leaves, typed keys as the numbers that they are."""
    return [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]


def _checksum(leaves):
    total = 0
    for name in sorted(leaves):
        total = zlib.crc32(np.ascontiguousarray(leaves[name]).tobytes(), total)
    return np.asarray(total, np.uint32)


def _state(saved, like):
    """The state that was saved, on the devices of `like`."""
    leaves, treedef = jax.tree.flatten(like)
    placed = []
    for i, (leaf, data) in enumerate(zip(leaves, _data(like), strict=True)):
        empty = np.zeros(data.shape, data.dtype)
        value = saved[f"{i:05d}"] if data.size else empty
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            value = jax.random.wrap_key_data(jnp.asarray(value), impl=impl)
        placed.append(jax.device_put(value, leaf.sharding))
    return treedef.unflatten(placed)


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
