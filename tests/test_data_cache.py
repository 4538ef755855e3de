"""The cache: what is in it is whole, whatever happened to it."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from jmeta.data import _cache

ARRAYS = {"a": np.arange(1000), "b": np.array(["x", "é"])}


DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "one byte short": lambda whole: whole[:-1],
    "another": lambda whole: b"not an archive",
    "first byte": lambda whole: _flip(whole, 0),
    "in the middle": lambda whole: _flip(whole, len(whole) // 2),
}


def _flip(whole, place):
    return whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "jmeta"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(damage, own_cache):
    _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)
    path = own_cache / "x.npz"
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    made = []
    found = _cache.load_or_make("x.npz", ARRAYS, lambda: made.append(1) or ARRAYS)
    assert made
    assert found is ARRAYS
    again = _cache.load_or_make("x.npz", ARRAYS, _never)
    assert np.array_equal(again["a"], ARRAYS["a"])
    assert again["b"].tolist() == ["x", "é"]
    assert list(own_cache.iterdir()) == [path]


FOREIGN = {
    "zeroed": {"a": np.zeros(1000, int), "b": ARRAYS["b"]},
    "another length": {"a": np.arange(999), "b": ARRAYS["b"]},
    "another type": {"a": np.arange(1000.0), "b": ARRAYS["b"]},
    "swapped": {"a": ARRAYS["b"], "b": ARRAYS["a"]},
    "more": {**ARRAYS, "c": np.zeros(1)},
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_whole_archive_of_other_contents_is_made_again(name, signed, own_cache):
    _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)
    path = own_cache / "x.npz"
    with np.load(path) as stored:
        checksum = {"sha256": stored["sha256"]} if signed else {}
    np.savez_compressed(path, **FOREIGN[name], **checksum)
    assert _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS) is ARRAYS
    assert np.array_equal(
        _cache.load_or_make("x.npz", ARRAYS, _never)["a"], ARRAYS["a"]
    )


def test_a_folder_in_the_way_is_told_of(own_cache):
    (own_cache / "x.npz" / "inside").mkdir(parents=True)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS) is ARRAYS
    assert [path.name for path in own_cache.iterdir()] == ["x.npz"]


def test_no_damage_comes_through(own_cache):
    _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)
    path = own_cache / "x.npz"
    whole = path.read_bytes()
    remade = 0
    for place in range(0, len(whole), 13):
        path.write_bytes(_flip(whole, place))
        arrays = _cache._read(path)
        remade += arrays is None
        # some bytes of an archive say nothing, such as its date
        if arrays is not None and set(arrays) == set(ARRAYS):
            assert np.array_equal(arrays["a"], ARRAYS["a"])
            assert np.array_equal(arrays["b"], ARRAYS["b"])
    assert remade > 0.8 * len(whole) / 13


def test_a_cache_of_other_arrays_is_made_again(own_cache):
    _cache.load_or_make("x.npz", {"c"}, lambda: {"c": np.ones(1)})
    assert set(_cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)) == {"a", "b"}


def test_what_fails_leaves_nothing(own_cache, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(KeyboardInterrupt):
        _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)
    assert not list(own_cache.iterdir())


def test_a_cache_that_cannot_be_written_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written .*Set XDG_CACHE_HOME"):
        found = _cache.load_or_make("x.npz", ARRAYS, lambda: ARRAYS)
    assert found is ARRAYS


WRITER = """
import sys, numpy as np
from jmeta.data import _cache
arrays = {"a": np.full(200_000, int(sys.argv[1]))}
print("ready", flush=True)
while True:
    _cache._write(_cache.folder() / "x.npz", arrays)
"""


def test_writers_at_once_and_killed_ones_leave_it_whole(own_cache):
    command = (sys.executable, "-c", WRITER)
    writers = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, env=os.environ)
        for i in range(2)
    ]
    path = own_cache / "x.npz"
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    while not path.exists():
        assert all(writer.poll() is None for writer in writers)
    values = set()
    for _ in range(20):
        arrays = _cache._read(path)
        assert arrays is not None
        values |= set(arrays["a"].tolist())
        assert len(arrays["a"]) == 200_000
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert values <= {0, 1}
    assert len(_cache.load_or_make("x.npz", {"a"}, _never)["a"]) == 200_000


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        ("linux", {}, ".cache/jmeta"),
        ("darwin", {}, "Library/Caches/jmeta"),
        ("win32", {}, "AppData/Local/jmeta/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/jmeta/Cache"),
        ("darwin", {"XDG_CACHE_HOME": "/given"}, "/given/jmeta"),
    ],
)
def test_folder(platform, given, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert _cache.folder() == tmp_path / expected


def test_a_given_folder_needs_no_home(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "home", _never)
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    assert _cache.folder() == pathlib.Path("/given/jmeta")


def _never():
    raise AssertionError("computed again")
