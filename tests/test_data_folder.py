"""Few-shot tasks from image files."""

from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jmeta import data
from tests.helpers import F32, assert_trees_close

SIZES: dict[str, Any] = {"ways": 3, "shots": 1, "queries": 2}


def write(path, value, mode="L", size=(10, 10)):
    """An image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def omniglot(tmp_path):
    """Alphabets of characters, black on white, with files that are no images."""
    for level, name in enumerate(
        ("Greek/character01", "Greek/character02", "Latin/character01", "Latin/c3")
    ):
        for i in range(3 + level):
            write(tmp_path / name / f"{i:02}.png", 250 - 40 * level - i)
    (tmp_path / "Greek" / "strokes.txt").write_text("none")
    (tmp_path / "Latin" / "empty").mkdir()
    return tmp_path


def test_nested_classes(omniglot):
    sample = data.from_folder(omniglot, **SIZES, size=7, invert=True)
    assert sample.counts.tolist() == [3, 4, 6, 5]  # in the order of their paths
    for key in jax.random.split(jax.random.key(0), 3):
        support, query = sample(key)
        assert (support[0].shape, query[0].shape) == ((3, 7, 7, 1), (6, 7, 7, 1))
        assert query[1].tolist() == [0, 0, 1, 1, 2, 2]
        ink = np.round(255 * np.concatenate([support[0], query[0]])[:, 0, 0, 0])
        level, image = np.divmod(ink - 5, 40)
        assert len(set(level[:3])) == 3
        assert np.array_equal(level[3:], np.repeat(level[:3], 2))
        assert len(set(zip(level, image, strict=True))) == 9


def test_black_and_white_files(tmp_path):
    for name in "abc":
        for i in range(3):
            write(tmp_path / name / f"{i}.PNG", 0, mode="1", size=(105, 105))
    task = data.from_folder(tmp_path, **SIZES, invert=True)(jax.random.key(0))
    assert_trees_close(task.support[0], np.ones((3, 28, 28, 1)), F32)


def test_colours_are_resized(tmp_path):
    # the left half red, the right half green
    for name in "abc":
        for i in range(3):
            write(tmp_path / name / f"{i}.png", (255, 0, 0), "RGB", (40, 20))
            with Image.open(tmp_path / name / f"{i}.png") as image:
                image.paste((0, 255, 0), (20, 0, 40, 20))
                image.save(tmp_path / name / f"{i}.png")
    task = data.from_folder(tmp_path, **SIZES, size=8, channels=3)(jax.random.key(0))
    assert task.support[0].shape == (3, 8, 8, 3)
    assert_trees_close(task.support[0][0, 3, 0], np.array([1.0, 0, 0]), F32)
    assert_trees_close(task.support[0][0, 3, 7], np.array([0, 1.0, 0]), F32)


def test_as_from_arrays(omniglot):
    options = {**SIZES, "rotations": True, "distortion": 0.1}
    sample = data.from_folder(omniglot, size=10, **options)
    files = sorted(omniglot.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = np.array([str(file.parent.relative_to(omniglot)) for file in files])
    expected = data.from_arrays(images, labels, **options)(jax.random.key(0))
    assert_trees_close(sample(jax.random.key(0)), expected, 0)


@pytest.mark.parametrize(
    ("place", "options", "error", "message"),
    [
        ("", {"shots": 2}, ValueError, r"class Greek/character01 has 3"),
        ("Greek", {}, ValueError, "at least `ways`=3 classes; got 2"),
        ("", {"channels": 4}, ValueError, r"`channels` must be 1 .*; got 4"),
        ("", {"size": 0}, ValueError, "`size` must be an integer from 1; got 0"),
        ("Latin/empty", {}, FileNotFoundError, "empty has no image in it"),
        ("Dutch", {}, FileNotFoundError, "Dutch is no folder"),
    ],
)
def test_errors(omniglot, place, options, error, message):
    with pytest.raises(error, match=message):
        data.from_folder(omniglot / place, **{**SIZES, **options})
