"""An optimizer that two threads share loses no update without a word."""

import copy
import threading

import jax
import jax.numpy as jnp

import jmeta
from tests.higher_cases import assert_same, line, towards

WAIT = 60.0


def while_stepping(diffopt, loss_fn, act):
    """Let `act` run in another thread in the middle of a step; what it raised."""
    raised = []

    def other():
        try:
            act()
        except RuntimeError as error:
            raised.append(error)

    def loss(*args):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive()
        return loss_fn(*args)

    diffopt.step(loss)
    return raised


def test_a_second_step_is_refused():
    fmodel, diffopt = line(1.0)
    step = lambda: diffopt.step(towards(fmodel, 2.0))
    raised = while_stepping(diffopt, towards(fmodel, 2.0), step)
    assert raised
    assert all("`step` must be called by one thread" in str(e) for e in raised)
    # the first was taken, and the next one can be
    assert len(fmodel._history) == 2
    step()
    assert len(fmodel._history) == 3


def test_of_another_optimizer_of_the_same_model():
    fmodel, diffopt = line(1.0)
    tx = jmeta.optim.sgd(lr=0.1)
    second = jmeta.get_diff_optim(tx, fmodel.fast_params, fmodel)
    step = lambda: second.step(towards(fmodel, 2.0))
    assert while_stepping(diffopt, towards(fmodel, 2.0), step)


def test_the_parameters_of_a_step_are_not_read():
    fmodel, diffopt = line(1.0)
    raised = while_stepping(diffopt, towards(fmodel, 2.0), lambda: fmodel(1.0))
    assert raised
    assert all("`fmodel` must be read by one thread" in str(e) for e in raised)


def test_each_with_its_own():
    found = {}

    @jax.enable_x64(True)
    def train(name):
        fmodel, diffopt = line(1.0)
        for _ in range(3):
            diffopt.step(towards(fmodel, 2.0))
        found[name] = fmodel.fast_params

    threads = [threading.Thread(target=train, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert_same(found[0], found[1])
    assert found[0] != 1.0


def test_one_thread_after_another_and_copies():
    fmodel, diffopt = line(1.0)

    @jax.enable_x64(True)  # which holds for a thread alone
    def step():
        diffopt.step(towards(fmodel, 2.0))

    thread = threading.Thread(target=step)
    thread.start()
    thread.join(WAIT)
    step()
    assert len(fmodel._history) == 3
    alone = jmeta.get_diff_optim(jmeta.optim.sgd(lr=0.25), jnp.array(1.0))
    copied = copy.deepcopy(alone)
    assert_same(copied.step(lambda w: w**2, params=jnp.array(1.0)), jnp.array(0.5))
