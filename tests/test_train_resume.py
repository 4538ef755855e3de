"""A run that was stopped in any way ends as one that never was."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta.train import _loop, _manifest
from jmeta.train._interrupt import Interrupt
from jmeta.train._log import Log
from tests.helpers import assert_trees_close
from tests.train_cases import STEPS, meta_params, run, sample

pytestmark = pytest.mark.standard_promotion("optax's Adam and noise mix dtypes")

SCRIPT = Path(__file__).parent / "train_cases.py"
# two kinds of state that files do not hold as they are
TX = optax.chain(
    optax.add_noise(0.01, 0.5, key=jax.random.key(1)),
    optax.masked(optax.adam(0.01), {"w": True, "b": False}),
    optax.sgd(0.1),
)


@pytest.fixture(autouse=True)
def a_terminal_that_interrupts():
    """A process that a shell began in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole():
    """A run that nothing stopped and that kept nothing."""
    return run(tx=TX)


@pytest.fixture(scope="module")
def three_quarters(tmp_path_factory):
    """The directory of a run of 30 steps."""
    directory = tmp_path_factory.mktemp("run") / "new"
    run(30, TX, directory=directory)
    return directory


@pytest.fixture
def several_leaves_may_fail(monkeypatch):
    """Orbax raises for the first leaf that it cannot read and drops the others."""
    hook = sys.unraisablehook

    def drop(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", drop)


def assert_same(resumed, whole):
    """Every bit, and every record but for its speed."""
    numbers = lambda fitted: fitted._replace(
        history=[record | {"rate": 0.0} for record in fitted.history]
    )
    assert_trees_close(numbers(resumed), numbers(whole), 0.0)


def lines(directory):
    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def kept(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


def newest(directory):
    names = [path.name for path in (directory / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def leave_a_temporary(checkpoints):
    shutil.copytree(checkpoints / "30", checkpoints / "40.orbax-checkpoint-tmp")


def empty(checkpoints):
    shutil.rmtree(checkpoints / "30")
    (checkpoints / "30").mkdir()


def cut_every_file(checkpoints):
    for path in (checkpoints / "30").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def lose_the_numbers(checkpoints):
    shutil.rmtree(checkpoints / "30" / "state" / "d")


def lose_all(checkpoints):
    for path in checkpoints.iterdir():
        (path / "state" / "manifest.ocdbt").unlink()


def change_a_number(checkpoints):
    """As it would be if orbax had written other numbers than it was given."""
    import orbax.checkpoint as ocp

    state = checkpoints / "30" / "state"
    settings = _manifest.check(state)
    with ocp.CheckpointManager(checkpoints) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        leaves = manager.restore(30, args=args)["state"]
        leaves["00001"] = np.zeros_like(leaves["00001"])
        manager.delete(30)
        args = ocp.args.Composite(state=ocp.args.StandardSave(leaves))
        manager.save(30, args=args, force=True)
    _manifest.write(state, settings)


def nothing(checkpoints):
    del checkpoints


@pytest.mark.parametrize(
    ("damage", "damaged"),
    [
        (nothing, []),
        (leave_a_temporary, []),
        (empty, [30]),
        (cut_every_file, [30]),
        (lose_the_numbers, [30]),
        (change_a_number, [30]),
        (lose_all, [10, 20, 30]),
    ],
)
@pytest.mark.usefixtures("several_leaves_may_fail")
def test_goes_on_from_what_is_whole(damage, damaged, three_quarters, whole, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(three_quarters, directory)
    damage(directory / "checkpoints")
    # a process that went further, and was killed while it wrote
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 35, "loss": 0.0}\n{"step": 4')
    if damaged:
        with pytest.warns(UserWarning, match="cannot be read and was moved"):
            resumed = run(tx=TX, directory=directory)
    else:
        resumed = run(tx=TX, directory=directory)
    assert_same(resumed, whole)
    assert lines(directory) == resumed.history
    moved = directory / "damaged"
    names = [path.name for path in moved.iterdir()] if moved.exists() else []
    assert sorted(int(name.split("-")[0]) for name in names) == damaged
    assert kept(directory) == [20, 30, 40]


def test_a_finished_run_is_read_back(three_quarters, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(three_quarters, directory)
    once = run(30, TX, directory=directory)
    again = run(30, TX, directory=directory)
    assert_same(once, again)
    assert once.step == 30
    assert_trees_close(once.best_params, again.best_params, 0.0)
    assert once.best_step == again.best_step == 30
    with pytest.raises(ValueError, match="a run of 30 steps, more than `steps`=20"):
        run(20, TX, directory=directory)


def press_at(monkeypatch, step):
    """Ctrl-C as soon as so many steps were taken."""
    advance, taken = Log.advance, []

    def press(log, steps):
        taken.append(steps)
        if sum(taken) - steps < step <= sum(taken):
            signal.raise_signal(signal.SIGINT)
        advance(log, steps)

    monkeypatch.setattr(Log, "advance", press)
    # a fast machine would take several between two looks
    monkeypatch.setattr(_loop, "SECONDS_PER_STRETCH", 0.0)


def test_ctrl_c_saves_and_says_how_to_go_on(whole, monkeypatch, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as context:
        press_at(context, 2)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run(tx=TX, directory=tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    message = str(stopped.value)
    assert message.startswith(f"Stopped after step 2 of {STEPS}. All is saved in ")
    assert f"{tmp_path}: make the same call to go on" in message
    assert kept(tmp_path) == [2]
    assert lines(tmp_path) == []
    resumed = run(tx=TX, directory=tmp_path)
    assert_same(resumed, whole)
    assert lines(tmp_path) == resumed.history


def test_metrics_of_another_program_stay_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 100}\n')
    with pytest.raises(ValueError, match=r"no settings\.json: `fit` did not make it"):
        run(tx=TX, directory=tmp_path)
    assert path.read_text() == '{"step": 100}\n'


def test_ctrl_c_without_a_directory(monkeypatch):
    press_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt, match="Nothing was saved: pass a `directory"):
        run(tx=TX, validate=None)


def test_a_second_ctrl_c_interrupts_at_once():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


OTHER_SETTINGS = [
    ({"key": jax.random.key(4)}, r"`key` was threefry2x32 \[0, 3\], now .*\[0, 4\]"),
    (
        {
            "meta_params": meta_params() | {"c": jnp.ones(2, jnp.float32)},
            "tx": optax.sgd(0.1),
        },
        r"`params\['c'\]` was absent, now float32\[2\]",
    ),
    ({"tx": optax.adam(0.1)}, r"`opt_state\[0\].rng_key` was key<fry>\[\], now absent"),
    ({"sample": lambda key: sample(key, 6)}, r"was float\d\d\[5, 4, 2\], now .*\[6, 4"),
    ({"metrics": None}, r"`totals\['before'\]` was float\d\d\[\], now absent"),
]


@pytest.mark.parametrize(("change", "message"), OTHER_SETTINGS)
def test_refuses_a_run_with_other_settings(change, message, three_quarters):
    before = (three_quarters / "settings.json").read_text()
    with pytest.raises(ValueError, match="holds a run with other settings") as raised:
        run(**{"tx": TX, "directory": three_quarters} | change)
    raised.match(message)
    assert (three_quarters / "settings.json").read_text() == before
    assert kept(three_quarters) == [10, 20, 30]


def test_refuses_a_directory_of_something_else(three_quarters, tmp_path):
    shutil.copytree(three_quarters / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(
        ValueError, match=r"checkpoints but no settings.json: `fit` did"
    ):
        run(tx=TX, directory=tmp_path)


@pytest.mark.slow
def test_killed_at_ten_moments(tmp_path):
    steps = 1000

    def start(out, *directory):
        environment = os.environ | {"PYTHONPATH": str(SCRIPT.parent.parent)}
        command = [sys.executable, "-W", "error", str(SCRIPT), str(out), str(steps)]
        return subprocess.Popen([*command, *directory], env=environment)

    assert start(tmp_path / "whole.npz").wait() == 0
    directory = tmp_path / "run"
    moment, stopped_at = random.Random(0), []
    for _ in range(10):
        before = newest(directory)
        process = start(tmp_path / "killed.npz", str(directory))
        # not while it starts or compiles: there would be nothing to lose
        while newest(directory) == before:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        stopped_at.append(newest(directory))
    assert stopped_at == sorted(set(stopped_at))
    assert start(tmp_path / "resumed.npz", str(directory)).wait() == 0
    whole, resumed = (np.load(tmp_path / f"{n}.npz") for n in ("whole", "resumed"))
    assert sorted(whole) == sorted(resumed)
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name])
    assert [record["step"] for record in lines(directory)] == list(range(5, 1001, 5))
    assert not (tmp_path / "killed.npz").exists()
    assert not (directory / "damaged").exists()
