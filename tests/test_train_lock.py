"""One call at a time trains in a directory."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jmeta.train import _lock
from jmeta.train._lock import Lock
from jmeta.train._log import Log
from tests.train_file_cases import run

HOLD = """
import pathlib, sys, time
from jmeta.train._lock import Lock
with Lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def started(script, directory, **kwargs):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", script, str(directory)]
    process: Any = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, **kwargs
    )
    return process


def assert_free(directory):
    with Lock(directory):
        pass


def assert_taken(directory, *words):
    with pytest.raises(RuntimeError, match="is in use by") as raised, Lock(directory):
        raise AssertionError("it was free")
    message = str(raised.value)
    for word in (str(directory), socket.gethostname(), *words):
        assert word in message
    return message


def test_names_the_holder_until_it_is_killed(tmp_path):
    with started(HOLD, tmp_path) as process:
        try:
            assert process.stdout.readline() == "held\n"
            message = assert_taken(tmp_path, f"process {process.pid} on", "since 20")
            assert "this very" not in message
            assert "pass another directory" in message
        finally:
            process.send_signal(signal.SIGKILL)
    assert_free(tmp_path)


def test_keeps_out_a_second_call_and_another_thread(tmp_path):
    found = []
    with Lock(tmp_path):
        assert_taken(tmp_path, f"this very process, process {os.getpid()}")
        thread = threading.Thread(target=lambda: found.append(assert_taken(tmp_path)))
        thread.start()
        thread.join()
    assert found
    assert_free(tmp_path)


def test_is_released_by_an_error(tmp_path):
    with pytest.raises(KeyError), Lock(tmp_path):
        raise KeyError
    assert_free(tmp_path)


def test_another_directory_is_free(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with Lock(tmp_path):
        assert_free(other)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[]", b'{"pid": 3}', b"\xff"])
def test_a_holder_that_has_not_written_its_name(content, tmp_path):
    with Lock(tmp_path):
        (tmp_path / "fit.lock").write_bytes(content)
        with pytest.raises(RuntimeError, match="in use by another process"):
            Lock(tmp_path).__enter__()


def test_what_a_killed_one_left_is_no_obstacle(tmp_path):
    (tmp_path / "fit.lock").write_text(json.dumps({"pid": 1, "host": "a" * 300}))
    with Lock(tmp_path):
        holder = json.loads((tmp_path / "fit.lock").read_text())
        assert holder["pid"] == os.getpid()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_lock, "_try_lock", refuse)
    with pytest.warns(UserWarning, match="has no locks: see to it"), Lock(tmp_path):
        pass


def test_other_trouble_is_named(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(_lock, "_try_lock", refuse)
    with pytest.raises(OSError, match=r"cannot be written: Input/output"):
        Lock(tmp_path).__enter__()


FORK = """
import os, pathlib, sys
from jmeta.train._lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.__enter__()
if os.fork() == 0:
    print("held", flush=True)
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), 9)
"""


def test_a_fork_does_not_hold_it(tmp_path):
    with started(FORK, tmp_path, stdin=subprocess.PIPE) as process:
        assert process.wait() == -signal.SIGKILL
        assert process.stdout.readline() == "held\n"
        # the child lives until its input ends
        assert_free(tmp_path)


def test_fit_holds_it_while_it_trains(tmp_path, monkeypatch):
    write, refused = Log.write, []

    def call_again(log, record):
        with pytest.raises(RuntimeError, match="is in use by this very process"):
            run(tmp_path)
        refused.append(record["step"])
        write(log, record)

    with monkeypatch.context() as context:
        context.setattr(Log, "write", call_again)
        run(tmp_path, 2)
    assert refused == [1, 2]
    run(tmp_path, 4)


def test_fit_lets_go_of_it_when_it_fails(tmp_path):
    with pytest.raises(FloatingPointError):
        run(tmp_path, task_loss=lambda params, task: jnp.log(-(params**2).sum()))
    assert_free(tmp_path)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run(tmp_path, meta_params=jnp.ones(3))
    assert_free(tmp_path)
