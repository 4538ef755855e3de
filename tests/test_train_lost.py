"""Damage is set aside; all other trouble with files is raised and loses nothing."""

import builtins
import errno
import io
import json
import os
import shutil
import sys
import threading
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import jmeta
from jmeta.train import _files, _manifest
from jmeta.train._log import Log
from tests.helpers import assert_trees_close
from tests.train_cases import sample
from tests.train_file_cases import assert_goes_on, contents, finished_run, run


@pytest.fixture
def directory(tmp_path):
    return finished_run(tmp_path / "run")


def fail_to_read(monkeypatch, error, part):
    """Each opening of a file whose path holds `part` fails."""

    def failing(original):
        def open_or_fail(path, *args, **kwargs):
            if isinstance(path, str | Path) and part in str(path):
                raise error
            return original(path, *args, **kwargs)

        return open_or_fail

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", failing(open))


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE]
)
@pytest.mark.parametrize("part", ["checkpoints/4", "checkpoints/2", "settings.json"])
def test_trouble_in_reading_moves_nothing(number, part, directory, monkeypatch):
    if part == "checkpoints/2":
        # of the best, which is read after the latest
        number = errno.EIO
        shutil.rmtree(directory / "checkpoints" / "4")
    before = contents(directory)
    error = OSError(number, os.strerror(number))
    for _ in range(2):
        with monkeypatch.context() as context:
            fail_to_read(context, error, part)
            with pytest.raises(OSError, match="cannot be read") as raised:
                run(directory)
        assert raised.value.errno == number
        assert str(directory) in str(raised.value)
        assert "same call again" in str(raised.value)
        assert contents(directory) == before
    assert_goes_on(directory)


def grouped(error):
    return ExceptionGroup("several", [ValueError("other"), error])


def caused(error):
    try:
        raise RuntimeError("orbax has failed") from error
    except RuntimeError as wrapped:
        return wrapped


FAILURES = {
    "OSError": OSError(errno.EIO, "Input/output error"),
    "timeout": TimeoutError("too late"),
    "status": ValueError("UNAVAILABLE: Error reading d/0"),
    "data loss": ValueError("DATA_LOSS: Error reading d/0"),
    "code": ValueError("UNAVAILABLE: d/0 [os_error_code='5'] [tensorstore_spec='']"),
    "group": grouped(OSError(errno.EIO, "Input/output error")),
    "cause": caused(OSError(errno.EIO, "Input/output error")),
    "key": KeyError("00001"),
    "unknown": Exception("something"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_orbax_fails_with_moves_nothing(name, directory, monkeypatch):
    def fail(*args, **kwargs):
        raise FAILURES[name]

    before = contents(directory)
    for _ in range(2):
        with monkeypatch.context() as context:
            context.setattr(ocp.StandardCheckpointHandler, "restore", fail)
            with pytest.raises(OSError, match=r"step 4 .* cannot be read") as raised:
                run(directory)
        if name in ("OSError", "code", "group", "cause"):
            assert raised.value.errno == errno.EIO
        else:
            assert str(FAILURES[name]) in str(raised.value)
        assert contents(directory) == before
    assert_goes_on(directory)


def zero(path):
    path.write_bytes(b"\0" * path.stat().st_size)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [zero, flip, cut, Path.unlink, replace_by_folder])
def test_any_file_whose_content_is_wrong_is_noticed(harm, directory, tmp_path):
    state = directory / "checkpoints" / "4" / "state"
    _manifest.check(state)
    paths = [path for path in state.rglob("*") if path.is_file()]
    # orbax's last word, which holds nothing
    names = [p.relative_to(state) for p in paths if p.name != "commit_success.txt"]
    assert len(names) > 3
    for name in names:
        copy = tmp_path / "4" / "state"
        shutil.copytree(state, copy)
        if (copy / name).stat().st_size:
            harm(copy / name)
            with pytest.raises(_manifest.Damaged):
                _manifest.check(copy)
        shutil.rmtree(copy)


def test_a_folder_that_is_not_there_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        _manifest.check(tmp_path / "gone" / "4" / "state")


@pytest.mark.parametrize("harm", [zero, cut, Path.unlink])
def test_what_orbax_does_not_need_may_be_harmed(harm, directory):
    harm(directory / "checkpoints" / "4" / "_CHECKPOINT_METADATA")
    assert_goes_on(directory)


def full(monkeypatch, step):
    """The disk is full when the checkpoint of a step is being written."""
    write = _manifest.write

    def fail(folder, settings):
        if f"{step}.orbax" in str(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, settings)

    monkeypatch.setattr(_manifest, "write", fail)


@pytest.mark.parametrize("step", [4, 6])
def test_a_full_disk_is_named_and_the_last_checkpoint_stays(
    step, tmp_path, monkeypatch
):
    with monkeypatch.context() as context:
        full(context, step)
        with pytest.raises(OSError, match=f"checkpoint of step {step} cannot") as found:
            run(tmp_path, keep=1)
    assert found.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(found.value)
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert str(step - 2) in names
    assert_goes_on(tmp_path)


def test_a_full_disk_is_noticed_before_the_next_checkpoint(tmp_path, monkeypatch):
    write, written = Log.write, []

    def wait(log, record):
        written.append(record["step"])
        while any(thread.name == "save_finalize" for thread in threading.enumerate()):
            time.sleep(0.01)
        write(log, record)

    full(monkeypatch, 2)
    monkeypatch.setattr(Log, "write", wait)
    with pytest.raises(OSError, match="checkpoint of step 2 cannot be written"):
        run(tmp_path)
    assert written == [1, 2, 3]


def test_a_full_disk_for_records_is_named(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, line):
            if json.loads(line)["step"] < 3:
                return super().write(line)
            return super().write(line[:7])

    with monkeypatch.context() as context:
        path = tmp_path / "metrics.jsonl"
        opened = Path.open
        context.setattr(
            Path,
            "open",
            lambda self, mode="r", **kwargs: (
                Full(self, mode)
                if (self, mode) == (path, "ab")
                else opened(self, mode, **kwargs)
            ),
        )
        with pytest.raises(
            OSError, match="record of step 3 cannot be written"
        ) as found:
            run(tmp_path)
    assert found.value.errno == errno.ENOSPC
    assert path.read_bytes().endswith(b'{"step"')
    assert_goes_on(tmp_path)


def test_too_little_space_is_said_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="has 10 bytes free and a checkpoint") as raised:
        run(tmp_path, task_loss=lambda params, task: (params**2).sum())
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_directory_that_cannot_be_written_is_named(number, tmp_path, monkeypatch):
    opened = os.open

    def fail(path, *args, **kwargs):
        if str(path).endswith("fit.lock"):
            raise OSError(number, os.strerror(number))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=r"`directory` .* cannot be written") as raised:
        run(tmp_path)
    assert raised.value.errno == number


def test_writes_through_or_leaves_as_it_was(tmp_path, monkeypatch):
    path, synced = tmp_path / "a", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(fd) or sync(fd))
    _files.write_through(path, b"1")
    # the file and its folder
    assert len(synced) == (1 if sys.platform == "win32" else 2)

    def fail(descriptor):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        _files.write_through(path, b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"1"


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not synced there")
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    """Some file systems have no such call; any other trouble is an error."""

    def fail(number):
        def sync(descriptor):
            raise OSError(number, "no")

        return sync

    monkeypatch.setattr(os, "fsync", fail(errno.EINVAL))
    _files.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", fail(errno.EIO))
    with pytest.raises(OSError, match="no"):
        _files.sync_folder(tmp_path)


def test_the_later_of_equals_is_the_best_also_after_a_resume(tmp_path):
    flat = {
        "validate": jmeta.Validation(
            lambda params, task: 0.0 * params.sum(), sample, every=2
        )
    }
    for steps in (4, 8):
        fitted = run(tmp_path, steps, **flat)
        assert fitted.best_step == steps
        assert_trees_close(fitted.best_params, fitted.params, 0.0)


def test_the_best_of_an_earlier_call_is_kept(tmp_path):
    # the square is least at the first validation, as every step goes further
    away = {"task_loss": lambda params, task: -(params**2).sum(), "keep": 1}
    first = run(tmp_path, 4, **away)
    for steps in (6, 8):
        fitted = run(tmp_path, steps, **away)
        assert fitted.best_step == first.best_step == 2
        assert_trees_close(fitted.best_params, first.best_params, 0.0)
        assert not (jnp.asarray(fitted.best_params) == fitted.params).any()
        kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
        assert kept == [2, steps]


def test_a_good_run_warns_of_nothing(directory):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_goes_on(directory)
