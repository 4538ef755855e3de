"""`fit` takes the steps that a loop by hand takes, and tells what happens."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jmeta
from jmeta.train._loop import HostLoop
from tests.helpers import F64_SAME, assert_trees_close, compilations
from tests.train_cases import STEPS, meta_params, metrics, run, sample, task_loss

optax_mixes = pytest.mark.standard_promotion("optax's transforms mix dtypes")

OUTER = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01))


@pytest.fixture(scope="module")
def fitted():
    return run(tx=OUTER)


@pytest.fixture(scope="module")
def by_hand():
    """The loop as it would be written down, with what it measured at each step."""
    value_and_grad = jmeta.task_value_and_grad(task_loss, has_aux=True)

    @jax.jit
    def step(params, opt_state, key):
        sample_key, task_key = jax.random.split(key)
        tasks = sample(sample_key)
        (loss, aux), grads = value_and_grad(params, tasks, task_key)
        updates, opt_state = OUTER.update(grads, opt_state, params)
        measured = {"loss": loss, **metrics(aux, tasks)}
        return optax.apply_updates(params, updates), opt_state, measured

    params, measured = meta_params(), []
    opt_state = OUTER.init(params)
    for t in range(STEPS):
        key = jax.random.fold_in(jax.random.key(3), t)
        params, opt_state, found = step(params, opt_state, key)
        measured.append(found)
    return params, opt_state, jax.tree.map(lambda *x: np.array(x), *measured)


@optax_mixes
def test_equals_a_loop_by_hand(fitted, by_hand):
    params, opt_state, _ = by_hand
    assert_trees_close((fitted.params, fitted.opt_state), (params, opt_state), F64_SAME)
    assert fitted.step == STEPS
    assert (fitted.skipped, fitted.first_skipped) == (0, None)


@optax_mixes
def test_records_are_means_since_the_last(fitted, by_hand):
    assert [record["step"] for record in fitted.history] == list(range(5, STEPS + 1, 5))
    for name, values in by_hand[2].items():
        logged = np.array([record[name] for record in fitted.history])
        assert_trees_close(logged, values.reshape(-1, 5).mean(1), F64_SAME)
    assert all(record["same"] == 1 for record in fitted.history)
    assert all(record["rate"] > 0 for record in fitted.history)


@optax_mixes
def test_validates_on_the_same_tasks(fitted):
    validated = [record for record in fitted.history if "validation_loss" in record]
    assert [record["step"] for record in validated] == [10, 20, 30, 40]
    sample_key, key = jax.random.split(jax.random.fold_in(jax.random.key(3), 2**32 - 1))
    tasks = sample(sample_key, 3)
    losses, aux = jmeta.task_map(task_loss)(fitted.params, tasks, key)
    assert_trees_close(validated[-1]["validation_loss"], losses.mean(), F64_SAME)
    before = aux["before"].mean()
    assert_trees_close(validated[-1]["validation_before"], before, F64_SAME)
    best = min(validated, key=lambda record: record["validation_loss"])
    assert fitted.best_step == best["step"] == STEPS
    assert_trees_close(fitted.best_params, fitted.params, F64_SAME)


def test_the_best_need_not_be_the_last():
    # further from zero is worse, and every step goes further
    norm = lambda params, task: jnp.sum(params**2)
    fitted = run(
        30,
        optax.sgd(1.0),
        task_loss=lambda params, task: -params.sum(),
        meta_params=jnp.ones(2),
        has_aux=False,
        metrics=None,
        validate=jmeta.Validation(norm, sample, every=10),
    )
    assert_trees_close(fitted.params, jnp.full(2, 31.0), F64_SAME)
    assert fitted.best_step == 10
    assert_trees_close(fitted.best_params, jnp.full(2, 11.0), F64_SAME)


@optax_mixes
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_chunks_and_devices_change_nothing(fitted, axis_type):
    mesh = jax.make_mesh((4,), ("tasks",), axis_types=(axis_type,))
    with compilations() as compiled:
        split = run(tx=OUTER, mesh=mesh, chunk_size=1)
    assert_trees_close(split.params, fitted.params, F64_SAME)
    assert_trees_close(split.best_params, fitted.best_params, F64_SAME)
    without_rate = lambda run: [record | {"rate": 0} for record in run.history]
    assert_trees_close(without_rate(split), without_rate(fitted), F64_SAME)
    assert sum("advance" in name for name in compiled) == 1


@optax_mixes
def test_compiles_once_and_seldom_waits(monkeypatch):
    waits = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: waits.append(x) or device_get(x))
    with compilations() as compiled:
        run(1000, save_every=500, log_every=250)
    assert sum("advance" in name for name in compiled) == 1
    assert sum("validate" in name for name in compiled) == 1
    assert 0 < len(waits) < 100


def test_arguments_stay_whole_and_the_state_is_donated(monkeypatch):
    states = []
    start = HostLoop.run
    monkeypatch.setattr(
        HostLoop, "run", lambda *args: states.append(args[1]) or start(*args)
    )
    params = meta_params()
    before = jax.tree.map(np.array, params)

    # its state begins with the parameters themselves, as that of averages does
    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    tx = optax.GradientTransformation(lambda params: params, update)
    fitted = run(10, tx, meta_params=params, validate=None)
    assert_trees_close(params, before, 0.0)
    assert not np.array_equal(fitted.params["w"], before["w"])
    assert_trees_close(fitted.opt_state, before, 0.0)
    # a count of a few bytes may stay, as on jax 0.11
    large = states[0].params, states[0].opt_state
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(large))


@optax_mixes
@pytest.mark.parametrize(
    "tx",
    [
        optax.lbfgs(),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
        optax.chain(optax.add_noise(0.1, 0.5, key=jax.random.key(1)), optax.sgd(0.1)),
        jmeta.optim.adam(lr=jmeta.schedules.exponential_lr(0.01, gamma=0.9)),
    ],
    ids=["lbfgs", "reduce_on_plateau", "add_noise", "jmeta"],
)
def test_any_transform(tx):
    fitted = run(20, tx, validate=None)
    losses = [record["loss"] for record in fitted.history]
    assert losses[-1] < losses[0]


def test_tasks_and_keys_of_any_kind():
    """A raw key, a loss without key, parameters that are a number."""
    fitted = run(
        10,
        optax.sgd(0.5),
        task_loss=lambda w, task: (w - task) ** 2,
        meta_params=0.0,
        sample=lambda key: jnp.array([1.0, 3.0]),
        key=jax.random.PRNGKey(0),
        has_aux=False,
        metrics=None,
        validate=None,
    )
    assert_trees_close(fitted.params, 2.0, F64_SAME)


@optax_mixes
def test_numbers_as_parameters_are_as_precise_as_arrays():
    settings = {
        "task_loss": lambda w, task: (w - jnp.float32(task)) ** 2,
        "sample": lambda key: jnp.array([1.0, 3.0]),
        **{"has_aux": False, "metrics": None, "validate": None},
    }
    plain, array = (
        run(3, optax.sgd(0.3), meta_params=w, **settings)
        for w in (0.1, jnp.array(0.1, float))
    )
    assert plain.params.dtype == jnp.float64
    assert not plain.params.weak_type
    assert_trees_close(plain.params, array.params, 0.0)


def test_metrics_see_no_validation_without_aux():
    only_loss = lambda p, task, key: task_loss(p, task, key)[0]
    validate = jmeta.Validation(only_loss, sample)
    last = run(10, optax.sgd(0.1), validate=validate).history[-1]
    found = {name for name in last if name.startswith("validation_")}
    assert found == {"validation_loss"}


@optax_mixes
@pytest.mark.parametrize("split", [False, True])
def test_stays_where_the_parameters_are(split):
    devices = np.array(jax.devices()[2:])
    rows = NamedSharding(Mesh(devices, "rows"), PartitionSpec("rows"))
    place = rows if split else devices[0]
    settings = {
        "task_loss": lambda w, task: jnp.sum((w - task) ** 2),
        "sample": lambda key: jnp.array([1.0, 3.0]),
        **{"has_aux": False, "metrics": None, "validate": None},
    }
    start = jnp.arange(4.0)
    fitted = run(2, meta_params=jax.device_put(start, place), **settings)
    assert fitted.params.devices() == (set(devices) if split else {devices[0]})
    assert fitted.opt_state[0].count.devices() == fitted.params.devices()
    expected = run(2, meta_params=start, **settings)
    assert_trees_close(fitted.params, expected.params, F64_SAME)


@optax_mixes
def test_bar_shows_what_is_recorded(capsys):
    run(10, progress=True)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "validation_loss=" in shown
    assert "skipped" not in shown


BAD_CALLS = [
    ({"has_aux": False}, "`metrics` reads what `task_loss` gives beside"),
    ({"tensorboard": True}, "`tensorboard=True` needs a `directory`"),
    ({"metrics": lambda aux, tasks: {"y": aux["y"]}}, "'y' must be a scalar; .* shape"),
    ({"metrics": lambda aux, tasks: {"step": 1.0}}, "cannot be named 'step'"),
    ({"metrics": lambda aux, tasks: {"validation_loss": 1.0}}, "cannot be named"),
    (
        {
            "validate": jmeta.Validation(lambda params, task, key: task[0], sample),
            "steps": 10,
        },
        "The function in `validate` must give a scalar",
    ),
]


@optax_mixes
@pytest.mark.parametrize(("change", "message"), BAD_CALLS)
def test_refuses_a_wrong_call(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(**change)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@optax_mixes
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("installed", [True, False])
def test_a_bar_by_default_where_tqdm_and_a_terminal_are(
    terminal, installed, monkeypatch
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    run(2, progress=None, validate=None)
    assert ("2/2" in stream.getvalue()) == (terminal and installed)


def test_says_how_to_install_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"pip install 'jmeta\[train\]'"):
        run(2, progress=True)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"`directory=` needs orbax.*'jmeta\[train"):
        run(2, directory=tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*'jmeta\[plot\]'"):
        jmeta.plot.losses(jnp.ones(3))
