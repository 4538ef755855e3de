"""Checkpoints: written beside the training, the last ones and the best kept."""

import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jmeta._typing import PyTree
from jmeta.train import _extras
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
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._ocp = _extras.load(
            "orbax.checkpoint",
            "examples",
            wanted_by="`directory=`",
            instead="leave `directory` out, which keeps nothing",
        )
        self.directory = directory
        self._best_step: int | None = None
        self._manager = self._ocp.CheckpointManager(
            directory.absolute() / "checkpoints",
            options=self._ocp.CheckpointManagerOptions(
                # orbax's own `best_fn` would delete the latest, and forgets the
                # metrics of what an earlier process wrote
                preservation_policy=_LatestAndBest(self, keep),
                cleanup_tmp_directories=True,
            ),
        )

    def claim(self, settings: dict[str, str]) -> None:
        """Begin a run, or go on with one that began with these settings, by name.

        Raises:
            ValueError: The run in the directory began with others, or there are
                metrics that `fit` did not write.
        """
        path = self.directory / "settings.json"
        if self._manager.all_steps():
            _compare(path, settings)
        else:
            _refuse_foreign(path)
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(settings, indent=1))
            os.replace(partial, path)

    def save(self, state: State, best: Best | None) -> None:
        """Begin to write a checkpoint; what is there already is left as it is."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._best_step = None if best is None else best.step
        leaves = {f"{i:05d}": x for i, x in enumerate(map(to_host, _data(state)))}
        leaves["best"] = np.array([np.nan, -1] if best is None else best[:2])
        # orbax refuses arrays without entries, which need no saving
        leaves = {name: x for name, x in leaves.items() if x.size}
        leaves["checksum"] = _checksum(leaves)
        args = self._ocp.args.Composite(state=self._ocp.args.StandardSave(leaves))
        self._manager.save(step, args=args, force=True)

    def latest(self, like: State) -> tuple[State, Best | None] | None:
        """The last state and the best parameters; None where there is no checkpoint.

        Structure, dtypes and devices are those of `like`.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            saved = self._read(step)
            if saved is None:
                continue
            state = _state(saved, like)
            value, best_step = float(saved["best"][0]), int(saved["best"][1])
            # not there: a later one was better, and will be found again
            there = best_step in self._manager.all_steps()
            saved = self._read(best_step) if there else None
            if saved is None:
                return state, None
            self._best_step = best_step
            params = jax.tree.map(to_host, _state(saved, like).params)
            return state, Best(value, best_step, params)
        return None

    def close(self) -> None:
        """Wait until all is written."""
        self._manager.close()

    def _read(self, step):
        """What was saved, or None if it cannot be read; it is out of the way then."""
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore())
        try:
            saved = self._manager.restore(step, args=args)["state"]
            if saved.pop("checksum") != _checksum(saved):
                raise ValueError("its checksum differs")
        except Exception as error:  # whatever a damaged file brings about
            self._set_aside(step, error)
            return None
        return saved

    def _set_aside(self, step, error):
        path = self.directory / "checkpoints" / str(step)
        aside = self.directory / "damaged"
        aside.mkdir(exist_ok=True)
        if path.exists():
            path.rename(aside / f"{step}-{len(list(aside.iterdir()))}")
        self._manager.reload()
        warnings.warn(
            f"The checkpoint of step {step} cannot be read and was moved to {aside};"
            f" the run goes on without it. ({type(error).__name__}: {error})",
            stacklevel=5,
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


def _refuse_foreign(path):
    """Metrics are cut where a run goes on; those of another program must not be."""
    metrics = path.parent / "metrics.jsonl"
    if metrics.exists() and not path.exists():
        raise ValueError(
            f"`directory` {path.parent} has a {metrics.name} but no {path.name}: `fit`"
            " did not make it. Pass another."
        )


def _compare(path, settings):
    if not path.exists():
        raise ValueError(
            f"`directory` {path.parent} has checkpoints but no {path.name}: `fit` did"
            " not make it. Pass another."
        )
    before = json.loads(path.read_text())
    differences = [
        f"`{name}` was {before.get(name, 'absent')}, now {settings.get(name, 'absent')}"
        for name in {**settings, **before}
        if before.get(name) != settings.get(name)
    ]
    if differences:
        more = len(differences) - 5
        raise ValueError(
            f"`directory` {path.parent} holds a run with other settings:"
            f" {'; '.join(differences[:5])}{f'; and {more} more' if more > 0 else ''}."
            " Pass what the run was started with, or another directory."
        )
