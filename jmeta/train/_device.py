"""The part of `fit` that runs on the device: many steps by one compiled program."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_leaves_with_path
from jax.typing import ArrayLike

from jmeta._core.tree import cast_like, strongly_typed, widest
from jmeta._core.typing import Key, PyTree
from jmeta.train import _guard


class Skipped(NamedTuple):
    """Steps whose update was refused.

    Attributes:
        count: How many steps were refused, an int32 scalar.
        step: The first of them, an int32 scalar.
        leaves: Which leaves were not finite in the first: booleans `[n]` in the order
            of `_guard.leaf_names`.
    """

    count: jax.Array
    step: jax.Array
    leaves: jax.Array


class State(NamedTuple):
    """All that a run needs to go on, except the key.

    A checkpoint holds these leaves in this order: raise `_settings._FORMAT` with any
    change.

    Attributes:
        step: How many steps were taken, an int32 scalar.
        params: The meta-parameters.
        opt_state: The state of the outer transform.
        totals: Sums of the loss and the metrics since the last log, by name.
        counted: How many steps are in these sums, an int32 scalar.
        skipped: The steps that were refused.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    totals: dict[str, jax.Array]
    counted: jax.Array
    skipped: Skipped


class MetaTraining(NamedTuple):
    """The meta-problem, and the steps that solve it.

    Attributes:
        measure: `(params, tasks, key) -> ({"loss": loss, name: metric}, grads)`.
        losses: `(params, tasks, key) -> losses`, one for each task, shape `[B]`.
        tx: The outer transform.
        sample: `key -> tasks`, with a leading axis `B` on every leaf.
        log_every: Steps between logs.
        skip: Whether to go on after a refused step, rather than stop before it.
    """

    measure: Callable[..., tuple[dict[str, jax.Array], PyTree]]
    losses: Callable[..., jax.Array]
    tx: optax.GradientTransformationExtraArgs
    sample: Callable[[Key], PyTree]
    log_every: int
    skip: bool

    def begin(self, meta_params: PyTree, key: Key) -> State:
        """The state before the first step, in newly allocated buffers."""
        params = strongly_typed(meta_params)
        opt_state = strongly_typed(self.tx.init(params))
        measured, _ = jax.eval_shape(
            lambda: self.measure(params, *draw_tasks(self.sample, 0, key))
        )
        leaves = len(_guard.leaf_names(params, opt_state))
        state = State(
            step=jnp.int32(0),
            params=params,
            opt_state=opt_state,
            totals={name: jnp.zeros([], _sum_dtype(x)) for name, x in measured.items()},
            counted=jnp.int32(0),
            skipped=Skipped(jnp.int32(0), jnp.int32(0), jnp.zeros(leaves, bool)),
        )
        # The state is donated later. Copies keep the user's arrays alive, and no
        # buffer may be donated twice.
        return jax.tree.map(jnp.copy, state)

    def advance(
        self, state: State, stop: jax.Array, key: Key
    ) -> tuple[State, jax.Array]:
        """Take steps until `stop`, or until one is refused and may not be skipped.

        `stop` is an array, so that one compiled program serves any number of steps.
        The results then depend neither on this number nor on where a run was resumed.

        Args:
            state: The state to go on from.
            stop: The step to stop at, an int32 scalar.
            key: The run's key.

        Returns:
            The new state, and which leaves were not finite in the last step: booleans
            `[n]` in the order of `_guard.leaf_names`.
        """

        def may_continue(carry):
            state, bad = carry
            return (state.step < stop) & (self.skip | ~bad.any())

        def step(carry):
            return self._step(carry[0], key)

        bad = jnp.zeros_like(state.skipped.leaves)
        return jax.lax.while_loop(may_continue, step, (state, bad))

    def _step(self, state: State, key: Key) -> tuple[State, jax.Array]:
        tasks, task_key = draw_tasks(self.sample, state.step, key)
        measured, grads = self.measure(state.params, tasks, task_key)
        loss = measured["loss"]
        updates, opt_state = self.tx.update(
            grads,
            state.opt_state,
            state.params,
            value=loss,
            grad=grads,
            value_fn=lambda params: self.losses(params, tasks, task_key).mean(),
        )
        params = optax.apply_updates(state.params, updates)
        opt_state = cast_like(opt_state, state.opt_state)
        bad = _guard.nonfinite(grads, loss, (params, opt_state), state.opt_state)

        starts = state.step % self.log_every == 0
        state = state._replace(
            totals={n: jnp.where(starts, 0, x) for n, x in state.totals.items()},
            counted=jnp.where(starts, 0, state.counted),
        )
        taken = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            totals={n: x + measured[n] for n, x in state.totals.items()},
            counted=state.counted + 1,
        )
        refused = _count_skipped(state, bad) if self.skip else state
        state = jax.tree.map(
            lambda a, b: jnp.where(bad.any(), b, a), strongly_typed(taken), refused
        )
        return state, bad


def draw_tasks(
    sample: Callable[[Key], PyTree], step: ArrayLike, key: Key
) -> tuple[PyTree, Key]:
    """The tasks of a step, and the key that their losses get."""
    # Task keys are folded from the second key. `sample` gets only the first, so it
    # cannot split off a key that a task uses too.
    sample_key, task_key = jax.random.split(jax.random.fold_in(key, step))
    return sample(sample_key), task_key


def run_settings(state: State, tasks: PyTree, key: Key) -> dict[str, str]:
    """What must be the same when a run is resumed: the key, and shapes and dtypes."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = f"{jax.random.key_impl(key)} {jax.random.key_data(key).tolist()}"
    else:
        data = str(key.tolist())
    described = {"key": data}
    parts = {
        "params": state.params,
        "tasks": tasks,
        "opt_state": state.opt_state,
        "totals": state.totals,
    }
    for part, tree in parts.items():
        for path, leaf in tree_leaves_with_path(tree):
            described[part + keystr(path)] = f"{leaf.dtype}{list(leaf.shape)}"
    return described


def _count_skipped(state, bad):
    """The state after a step whose update is refused."""
    count, step, leaves = state.skipped
    first = count == 0
    skipped = Skipped(
        count + 1, jnp.where(first, state.step, step), jnp.where(first, bad, leaves)
    )
    return state._replace(step=state.step + 1, skipped=skipped)


def _sum_dtype(x):
    return widest(x.dtype, jnp.float32)
