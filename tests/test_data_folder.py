"""Few-shot tasks from image files."""

import os
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
        ("", {"channels": 4}, ValueError, r"`channels` must be 1 or 3; got 4"),
        ("", {"size": 0}, ValueError, "`size` must be at least 1; got 0"),
        ("Latin/empty", {}, FileNotFoundError, "empty has no image in it"),
        ("Dutch", {}, FileNotFoundError, "Dutch is no folder"),
    ],
)
def test_errors(omniglot, place, options, error, message):
    with pytest.raises(error, match=message):
        data.from_folder(omniglot / place, **{**SIZES, **options})


def greys(*values):
    """Six pixels of 16 bits."""
    return np.array(values, np.uint16).reshape(2, 3)


RAMP = greys(0, 256, 4000, 30000, 50000, 65535)
SHARE = RAMP / 65535
HIGH = {
    "png 16": ("x.png", Image.fromarray(RAMP)),
    "tiff 16": ("x.tif", Image.fromarray(RAMP)),
    "tiff 16 big-endian": ("x.tiff", Image.fromarray(RAMP.astype(">u2"))),
    "tiff 32": ("x.tif", Image.fromarray(RAMP.astype(np.int32))),
    "tiff float": ("x.tif", Image.fromarray(SHARE.astype(np.float32))),
    "ppm 16": ("x.ppm", Image.fromarray(RAMP)),
}
LOW = np.array([[0, 1, 60], [128, 200, 255]], np.uint8)
GREY = Image.fromarray(LOW)
EIGHT = {
    "L": ("x.png", GREY),
    "LA": ("x.png", Image.merge("LA", (GREY, Image.new("L", (3, 2), 7)))),
    "P": ("x.png", GREY.convert("P")),
    "P gif": ("x.gif", GREY.convert("P")),
    "RGB": ("x.png", GREY.convert("RGB")),
    "RGBA": ("x.webp", GREY.convert("RGBA")),
    "1": ("x.png", Image.fromarray(LOW > 100)),
}


def pixels(folder, name, image, channels, **options):
    """One image in each of two classes, as it is read."""
    for kind in "ab":
        for i in range(2):
            (folder / kind).mkdir(exist_ok=True)
            image.save(folder / kind / f"{i}{name}", **options)
    sizes: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1}
    # the least resizing there is: of 2 by 3 pixels to 6 by 6, whose columns are doubled
    sample = data.from_folder(folder, **sizes, size=6, channels=channels)
    return sample.images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", HIGH)
def test_files_of_more_than_8_bits_keep_their_greys(name, channels, tmp_path):
    found = pixels(tmp_path, *HIGH[name], channels)
    resized = Image.fromarray(SHARE.astype(np.float32)).resize((6, 6))
    expected = np.asarray(resized).clip(0, 1)[None, ..., None]
    expected = np.broadcast_to(expected, (4, 6, 6, channels))
    assert found.dtype == np.float32
    assert_trees_close(found, expected, F32, 1e-6)
    assert len(np.unique(np.round(found, 4))) > 15


@pytest.mark.parametrize("name", EIGHT)
def test_files_of_8_bits_are_taken_as_they_are(name, tmp_path):
    options = {"lossless": True} if name == "RGBA" else {}
    found = pixels(tmp_path, *EIGHT[name], 1, **options)
    grey = GREY if name != "1" else EIGHT["1"][1].convert("L")
    assert found.dtype == np.uint8
    expected = np.asarray(grey.resize((6, 6)))[None, ..., None]
    assert_trees_close(found, np.broadcast_to(expected, (4, 6, 6, 1)), 0.0, 1.0)


def test_a_palette_with_transparent_entries_keeps_its_colours(tmp_path):
    image = GREY.convert("P")
    found = pixels(tmp_path, "x.png", image, 1, transparency=bytes([0, 90, 255]))
    expected = np.asarray(GREY.resize((6, 6)))[None, ..., None]
    assert_trees_close(found, np.broadcast_to(expected, (4, 6, 6, 1)), 0.0, 1.0)


def test_files_of_8_and_16_bits_have_one_scale(tmp_path):
    write(tmp_path / "a" / "0.png", 51)
    write(tmp_path / "a" / "1.png", 51)
    for i in range(2):
        write(tmp_path / "b" / f"{i}.png", 65535 // 5, mode="I;16")
    sizes: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1}
    for invert, expected in ((False, 0.2), (True, 0.8)):
        sample = data.from_folder(tmp_path, **sizes, size=4, invert=invert)
        assert_trees_close(sample.images, np.full((4, 4, 4, 1), expected), F32)


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def noise(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(values).save(path)


def test_bad_files_are_named_all_at_once(omniglot):
    greek = omniglot / "Greek" / "character01"
    for name in ("cut.png", "cut.jpg", "flipped.png"):
        noise(greek / name)
    cut(greek / "cut.png", 0.5)
    cut(greek / "cut.jpg", 0.5)
    whole = bytearray((greek / "flipped.png").read_bytes())
    whole[len(whole) // 2] ^= 255
    (greek / "flipped.png").write_bytes(bytes(whole))
    (greek / "empty.png").touch()
    (greek / "text.png").write_text("this is no image")
    (greek / "folder.png").mkdir()
    (greek / "dangling.png").symlink_to(greek / "gone.png")
    (greek / "circle.png").symlink_to(greek / "circle.png")
    (omniglot / "Latin" / "loop").symlink_to(omniglot)
    (omniglot / "Latin" / "gone").symlink_to(omniglot / "nowhere")
    os.mkfifo(greek / "pipe.png")
    Image.fromarray(np.full((2, 2), 2.0, np.float32)).save(greek / "float.tif")
    Image.fromarray(np.full((2, 2), -1, np.int32)).save(greek / "negative.tif")
    with pytest.raises(ValueError, match="`path` must be a folder whose images") as got:
        data.from_folder(omniglot, **SIZES)
    head, *lines = str(got.value).split("\n")
    assert str(omniglot) in head
    reasons = dict(line.strip().split(": ", 1) for line in lines)
    expected = {
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "flipped.png": "broken",
        "empty.png": "empty",
        "text.png": "not an image",
        "folder.png": "a folder with the name of an image",
        "dangling.png": "gone.png, which cannot be followed",
        "circle.png": "circle.png, which cannot be followed",
        "pipe.png": "no regular file",
        "float.tif": "greys from 2.0 to 2.0, which must be from 0 to 1",
        "negative.tif": "greys from -1 to -1, which must be from 0 to 65535",
    }
    expected = {f"Greek/character01/{k}": v for k, v in expected.items()} | {
        "Latin/loop": "a link to a folder that it lies in",
        "Latin/gone": "nowhere, which cannot be followed",
    }
    assert set(reasons) == set(expected)
    for path, words in expected.items():
        assert words in reasons[path], path


def test_hidden_files_and_folders_are_passed_over(omniglot):
    plain = data.from_folder(omniglot, **SIZES)
    (omniglot / "Greek" / "character01" / "._00.png").write_bytes(b"resource fork")
    (omniglot / ".thumbnails").mkdir()
    write(omniglot / ".thumbnails" / "small.png", 3)
    (omniglot / "Greek" / "README").symlink_to(omniglot / "Greek" / "strokes.txt")
    again = data.from_folder(omniglot, **SIZES)
    assert_trees_close(again.images, plain.images, 0)
    (omniglot / "Greek" / "README").unlink()
    # what is asked for by name may be hidden itself
    hidden = omniglot.rename(omniglot.with_name(".hidden"))
    assert_trees_close(data.from_folder(hidden, **SIZES).images, plain.images, 0)


def test_links_are_followed(omniglot, tmp_path_factory):
    plain = data.from_folder(omniglot, **SIZES)
    linked = tmp_path_factory.mktemp("linked")
    for alphabet in ("Greek", "Latin"):
        (linked / alphabet).symlink_to(omniglot / alphabet, target_is_directory=True)
    found = data.from_folder(linked, **SIZES)
    assert found.counts.tolist() == plain.counts.tolist()
    assert_trees_close(found.images, plain.images, 0)
    # the same folder twice is no loop
    (linked / "Zulu").symlink_to(omniglot / "Greek", target_is_directory=True)
    twice = data.from_folder(linked, **SIZES).counts
    assert twice.tolist() == [*plain.counts.tolist(), *plain.counts.tolist()[:2]]
    files = tmp_path_factory.mktemp("files")
    for kind in "abc":
        (files / kind).mkdir()
        for i, image in enumerate(sorted((omniglot / "Greek").rglob("*.png"))[:3]):
            (files / kind / f"{i}.png").symlink_to(image)
    assert data.from_folder(files, **SIZES).counts.tolist() == [3, 3, 3]
