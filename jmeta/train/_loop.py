"""The part of `fit` that runs on the host: stretches of steps, records and saves."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jmeta._core.typing import Key
from jmeta.train import _guard
from jmeta.train._checkpoints import Best, Checkpoints, to_host
from jmeta.train._device import MetaTraining, State
from jmeta.train._interrupt import Interrupt
from jmeta.train._log import Log, Record

SECONDS_PER_STRETCH = 0.5
"""How long the device works before the host takes over; Ctrl-C waits as long."""


class HostLoop(NamedTuple):
    """Hands the device one stretch of steps after another, and records and saves.

    Attributes:
        training: The meta-problem and its steps, which run on the device.
        validation: `(params, key) -> {name: scalar}`, compiled; or None.
        key: The run's key.
        steps: The step at which the run ends.
        save_every: Steps between checkpoints.
        validate_every: Steps between validations.
        interrupt: Says whether Ctrl-C was pressed.
        log: Takes the records.
        checkpoints: Takes the states; or None.
    """

    training: MetaTraining
    validation: Callable[..., dict[str, jax.Array]] | None
    key: Key
    steps: int
    save_every: int
    validate_every: int
    interrupt: Interrupt
    log: Log
    checkpoints: Checkpoints | None

    def run(self, state: State, best: Best | None) -> tuple[State, Best | None]:
        """Take the steps that are left.

        Args:
            state: The state to go on from. Its buffers are donated.
            best: The best parameters so far, or None.

        Returns:
            The state after the last step, and the best parameters.

        Raises:
            FloatingPointError: A step is not finite and must not be skipped.
            OSError: A record or a checkpoint cannot be written.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        # With shardings fixed, the new state has those of the old one. Otherwise the
        # second call could be compiled anew.
        shardings = jax.tree.map(lambda x: x.sharding, state)
        advance = jax.jit(
            self.training.advance, donate_argnums=0, out_shardings=(shardings, None)
        )
        step, stretch = int(state.step), 1
        while step < self.steps:
            stop = self._next_stop(step, stretch)
            begin = time.perf_counter()
            state, bad = advance(state, np.int32(stop), self.key)
            # This line alone waits for the device.
            reached, bad = jax.device_get((state.step, bad))
            rate = (int(reached) - step) / (time.perf_counter() - begin)
            stretch = max(1, round(SECONDS_PER_STRETCH * rate))
            self.log.advance(int(reached) - step)
            step = int(reached)
            if self.checkpoints is not None:
                self.checkpoints.check()
            if bad.any() and not self.training.skip:
                self._refuse(state, best, bad)
            best = self._record_and_validate(state, rate, best)
            # Read once: if it changed in between, the message below would say that
            # all is saved when it is not.
            pressed = self.interrupt.pressed
            if self._is_due(step, self.save_every) or pressed:
                self._save(state, best)
            if pressed:
                raise KeyboardInterrupt(
                    f"Stopped after step {step} of {self.steps}."
                    f" {self._saved('make the same call')}"
                )
        return state, best

    def first_skipped(self, state: State) -> tuple[int, str] | None:
        """The first step that was skipped, and what was not finite in it."""
        count, step, leaves = jax.device_get(state.skipped)
        if not count:
            return None
        names = _guard.leaf_names(state.params, state.opt_state)
        return int(step), _guard.first_cause(names, leaves)

    def _next_stop(self, step: int, stretch: int) -> int:
        """Where the next stretch ends: at the latest when something is due."""
        log_every = self.training.log_every
        all_every = log_every, self.save_every, self.validate_every
        ends = [(step // every + 1) * every for every in all_every]
        return min(step + stretch, self.steps, *ends)

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.steps

    def _record_and_validate(
        self, state: State, rate: float, best: Best | None
    ) -> Best | None:
        """Write one record of all that is due at this step; return the best so far."""
        step, record = int(state.step), {}
        if self._is_due(step, self.training.log_every):
            record = self._means(state) | {"rate": rate}
        if self.validation is not None and self._is_due(step, self.validate_every):
            found = jax.device_get(self.validation(state.params, self.key))
            value = float(found.pop("validation_loss"))
            record["validation_loss"] = value
            record |= {name: float(other) for name, other in found.items()}
            if value <= (np.inf if best is None else best.value):
                best = Best(value, step, jax.tree.map(to_host, state.params))
        if record:
            self.log.write({"step": step, **record})
        return best

    def _means(self, state: State) -> Record:
        # If all steps were skipped, the mean is NaN.
        count = int(state.counted) or np.nan
        means = {name: float(total) / count for name, total in state.totals.items()}
        record: Record = {"loss": means.pop("loss"), **means}
        record["skipped"] = int(state.skipped.count)
        first = self.first_skipped(state)
        if first is not None:
            record["first_skipped"] = "step {}: {}".format(*first)
        return record

    def _save(self, state: State, best: Best | None) -> None:
        if self.checkpoints is not None:
            self.log.sync()
            self.checkpoints.save(state, best)

    def _refuse(self, state: State, best: Best | None, bad: np.ndarray) -> None:
        self._save(state, best)
        names = _guard.leaf_names(state.params, state.opt_state)
        cause = _guard.first_cause(names, bad)
        raise FloatingPointError(
            f"Step {state.step} must be finite; not finite: {cause}."
            " The parameters before it are untouched. Its tasks are"
            f" `sample(jax.random.split(jax.random.fold_in(key, {state.step}))[0])`."
            " Pass `nonfinite='skip'` to leave such steps out, or mend the loss. If it"
            " trains with an optax transform, `jmeta.check_hypergrad` says whether that"
            " has to be wrapped in `jmeta.optim.finite`."
            f" {self._saved('make that call')}"
        )

    def _saved(self, how: str) -> str:
        if self.checkpoints is None:
            return "Nothing was saved: pass a `directory` to be able to go on."
        self.checkpoints.wait()
        return (
            f"All is saved in {self.checkpoints.directory}: {how} to go on from here."
        )
