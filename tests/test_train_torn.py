"""Torn files of a run are repaired or named, and the run goes on."""

import json
import shutil

import jax.numpy as jnp
import pytest

from tests.train_file_cases import assert_goes_on, contents, finished_run, run


@pytest.fixture
def directory(tmp_path):
    return finished_run(tmp_path / "run")


TORN = {
    "empty": b"",
    "zeros": b"\0" * 300,
    "half": b'{"format": "jmeta.fit 1", "key": "thr',
    "no text": b'{"key": "\xff\xfe"}',
    "no dict": b"[1, 2]",
}


@pytest.mark.parametrize("name", TORN)
def test_torn_settings_are_written_anew(name, directory):
    path = directory / "settings.json"
    before = json.loads(path.read_bytes())
    path.write_bytes(TORN[name])
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run(directory, meta_params=jnp.ones(3))
    assert path.read_bytes() == TORN[name]
    with pytest.warns(UserWarning, match=r"settings\.json was damaged and has been wr"):
        assert_goes_on(directory)
    assert json.loads(path.read_bytes()) == before


def test_torn_settings_without_a_whole_checkpoint_are_named(directory):
    (directory / "settings.json").write_bytes(b"")
    for path in (directory / "checkpoints").glob("*/state/manifest*"):
        path.unlink()
    before = contents(directory)
    with pytest.raises(ValueError, match=r"has a settings\.json that is damaged, and "):
        run(directory)
    assert contents(directory) == before


def test_torn_settings_of_a_run_that_saved_nothing(directory):
    shutil.rmtree(directory / "checkpoints")
    for torn in (b"", TORN["half"]):
        (directory / "settings.json").write_bytes(torn)
        assert_goes_on(directory)
        shutil.rmtree(directory / "checkpoints")


@pytest.mark.parametrize("raw", [b'{"editor": "vi"}', b"{ // comments\n}"])
def test_settings_of_another_program_stay(raw, tmp_path):
    path = tmp_path / "settings.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"a settings\.json that `fit` did not write"):
        run(tmp_path)
    assert path.read_bytes() == raw


def harm_metrics(raw, name):
    lines = raw.splitlines(keepends=True)
    return {
        "zeros at the end": raw + b"\0" * 100,
        "zeros instead": b"\0" * len(raw),
        "zeros before a line": lines[0] + b"\0\0\0" + b"".join(lines[1:]),
        "half a line": raw + b'{"step": 5, "lo',
        "half a line within": raw[:20] + b"\n" + raw,
        "no text": lines[0] + b"\xff\xfe{}\n" + b"".join(lines[1:]),
        "each twice": b"".join(line + line for line in lines),
        "no records": raw + b'3\n{"loss": 1}\n{"step": "a"}\n[[[[\n',
        "later ones": raw + b'{"step": 5}\n{"step": 6}\n',
    }[name]


SILENT = {"zeros at the end", "half a line", "later ones"}


@pytest.mark.parametrize(
    "name",
    [
        *sorted(SILENT),
        *("zeros before a line", "half a line within"),
        *("no text", "each twice", "no records"),
    ],
)
def test_torn_metrics_are_repaired(name, directory):
    path = directory / "metrics.jsonl"
    harmed = harm_metrics(path.read_bytes(), name)
    path.write_bytes(harmed)
    if name in SILENT:
        assert_goes_on(directory)
        assert not (directory / "damaged").exists()
        return
    with pytest.warns(UserWarning, match="no records of one run"):
        assert_goes_on(directory)
    assert (directory / "damaged" / "metrics.jsonl-0").read_bytes() == harmed


def test_metrics_of_zeros_are_left_out(directory):
    path = directory / "metrics.jsonl"
    path.write_bytes(b"\0" * 99 + b"\n")
    with pytest.warns(UserWarning, match="no records of one run"):
        fitted = run(directory)
    assert [record["step"] for record in fitted.history] == [5, 6]
