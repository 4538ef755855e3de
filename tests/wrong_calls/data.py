"""Wrong calls of `data`."""

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jmeta import data
from tests.wrong_calls.table import WrongCall

IMAGES, LABELS = np.zeros((12, 4, 4), np.uint8), np.arange(12) % 3
FEW: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1}


def arrays(images: Any = IMAGES, labels: Any = LABELS, **kwargs: Any) -> Any:
    return data.from_arrays(images, labels, **(FEW | kwargs))


def folder(name: str = "", write: bytes | None = None, **kwargs: Any) -> Any:
    with tempfile.TemporaryDirectory() as path:
        if write is not None:
            (pathlib.Path(path) / "x.png").write_bytes(write)
        return data.from_folder(pathlib.Path(path) / name, **kwargs)


def sinusoid(**kwargs: Any) -> Any:
    return data.sinusoid(**kwargs)


def harmonics(**kwargs: Any) -> Any:
    return data.harmonics(**kwargs)


def batch(sample: Any = None, size: Any = 3) -> Any:
    return data.batch(sample or data.sinusoid(), size)


def glyphs(split: Any = "train", **kwargs: Any) -> Any:
    return data.glyphs(split, **kwargs)


ROWS = [
    WrongCall(
        *("sinusoid-shots", lambda: sinusoid(shots=0)),
        *(ValueError, "shots", "got 0", "at least 1"),
    ),
    WrongCall(
        *("sinusoid-queries", lambda: sinusoid(queries="5")),
        *(TypeError, "queries", "'5'", "Python integer"),
    ),
    WrongCall(
        *("sinusoid-shots-bool", lambda: sinusoid(shots=True)),
        *(TypeError, "shots", "True", "Python integer"),
    ),
    WrongCall(
        *("sinusoid-amplitude", lambda: sinusoid(amplitude=3.0)),
        *(TypeError, "amplitude", "3.0", "Pass `amplitude=(low, high)`"),
    ),
    WrongCall(
        *("sinusoid-phase", lambda: sinusoid(phase=(0.0, "pi"))),
        *(TypeError, "phase", "'pi'", "Pass `phase=(low, high)`"),
    ),
    WrongCall(
        *("sinusoid-inputs", lambda: sinusoid(inputs=(5.0, -5.0))),
        *(ValueError, "inputs", "(5.0, -5.0)", "Swap them"),
    ),
    WrongCall(
        *("sinusoid-key", lambda: sinusoid()(0)),
        *(TypeError, "key", "got 0", "jax.random.key(0)"),
    ),
    WrongCall(
        *("sinusoid-no-key", lambda: sinusoid()(None)),
        *(TypeError, "key", "None", "jax.random.key(0)"),
    ),
    WrongCall(
        *("harmonics-shots", lambda: harmonics(shots=2.5)),
        *(TypeError, "shots", "2.5", "Python integer"),
    ),
    WrongCall(
        *("harmonics-noise", lambda: harmonics(noise="a")),
        *(TypeError, "noise", "'a'", "number"),
    ),
    WrongCall(
        *("harmonics-noise-negative", lambda: harmonics(noise=-1.0)),
        *(ValueError, "noise", "-1.0", "at least 0"),
    ),
    WrongCall(
        *("harmonics-key", lambda: harmonics()(3)),
        *(TypeError, "key", "got 3", "jax.random.key(0)"),
    ),
    WrongCall(
        *("batch-task", lambda: batch(sinusoid()(jax.random.key(0)))),
        *(TypeError, "sample", "a Task", "jmeta.data.sinusoid()"),
    ),
    WrongCall(
        *("batch-size", lambda: batch(size="3")),
        *(TypeError, "size", "'3'", "Python integer"),
    ),
    WrongCall(
        *("batch-size-zero", lambda: batch(size=0)),
        *(ValueError, "size", "got 0", "at least 1"),
    ),
    WrongCall(
        *("batch-key", lambda: batch()(0)),
        *(TypeError, "key", "got 0", "jax.random.key(0)"),
    ),
    WrongCall(
        *("batch-keys", lambda: batch()(jax.random.split(jax.random.key(0)))),
        *(ValueError, "key", "keys of shape (2,)", "jax.vmap"),
    ),
    WrongCall(
        *("from_arrays-ways", lambda: arrays(ways=0)),
        *(ValueError, "ways", "got 0", "at least 1"),
    ),
    WrongCall(
        *("from_arrays-too-many-ways", lambda: arrays(ways=4)),
        *(ValueError, "ways", "got 3", "more classes or fewer `ways`"),
    ),
    WrongCall(
        *("from_arrays-too-many-shots", lambda: arrays(shots=4)),
        *(ValueError, "shots + queries", "class 0 has 4", "lower `shots`"),
    ),
    WrongCall(
        *("from_arrays-shots-array", lambda: arrays(shots=jnp.ones(2))),
        *(TypeError, "shots", "an array of shape (2,)", "Python integer"),
    ),
    WrongCall(
        *("from_arrays-integers", lambda: arrays(IMAGES.astype(int))),
        *(TypeError, "images", "int64", "Divide by it"),
    ),
    WrongCall(
        *("from_arrays-flat", lambda: arrays(IMAGES.reshape(12, 16))),
        *(ValueError, "images", "shape (12, 16)", "[M, height, width]"),
    ),
    WrongCall(
        *("from_arrays-unequal", lambda: arrays([np.zeros((2, 2)), np.zeros((3, 2))])),
        *(ValueError, "images", "a list of unequal shapes", "np.stack"),
    ),
    WrongCall(
        *("from_arrays-images-none", lambda: arrays(None)),
        *(TypeError, "images", "None", "np.stack"),
    ),
    WrongCall(
        *("from_arrays-labels", lambda: arrays(labels=LABELS[:5])),
        *(ValueError, "labels", "shape (5,)", "each of the 12 images"),
    ),
    WrongCall(
        *("from_arrays-labels-one-hot", lambda: arrays(labels=np.eye(3)[LABELS])),
        *(ValueError, "labels", "shape (12, 3)", "one entry for each"),
    ),
    WrongCall(
        *("from_arrays-rotations", lambda: arrays(rotations="yes")),
        *(TypeError, "rotations", "'yes'", "True or False"),
    ),
    WrongCall(
        *("from_arrays-not-square", lambda: arrays(IMAGES[:, 1:], rotations=True)),
        *(ValueError, "rotations", "3 by 4", "Crop or pad"),
    ),
    WrongCall(
        *("from_arrays-distortion", lambda: arrays(distortion="0.1")),
        *(TypeError, "distortion", "'0.1'", "number"),
    ),
    WrongCall(
        *("from_arrays-distortion-negative", lambda: arrays(distortion=-0.1)),
        *(ValueError, "distortion", "-0.1", "at least 0"),
    ),
    WrongCall(
        "from_arrays-distortion-traced",
        lambda: jax.jit(lambda d: arrays(distortion=d).images)(0.1),
        *(TypeError, "distortion", "traced", "a sampler for each"),
    ),
    WrongCall(
        *("from_arrays-key", lambda: arrays()(0)),
        *(TypeError, "key", "got 0", "jax.random.key(0)"),
    ),
    WrongCall(
        *("from_folder-number", lambda: data.from_folder(3)),  # pyright: ignore[reportArgumentType]
        *(TypeError, "path", "got 3", "a folder's name or path"),
    ),
    WrongCall(
        *("from_folder-missing", lambda: folder("nothing")),
        *(FileNotFoundError, "path", "no folder", "a folder of images"),
    ),
    WrongCall(
        *("from_folder-file", lambda: folder("x.png", write=b"x")),
        *(FileNotFoundError, "path", "a file", "a folder of images"),
    ),
    WrongCall(
        *("from_folder-empty", lambda: folder()),
        *(FileNotFoundError, "path", "no image in it", "a folder of images"),
    ),
    WrongCall(
        *("from_folder-damaged", lambda: folder(write=b"damaged")),
        *(ValueError, "path", "x.png: not an image", "Repair, move or delete"),
    ),
    WrongCall(
        *("from_folder-size", lambda: folder(size=28.0)),
        *(TypeError, "size", "28.0", "Python integer"),
    ),
    WrongCall(
        *("from_folder-channels", lambda: folder(channels=4)),
        *(ValueError, "channels", "got 4", "1 or 3"),
    ),
    WrongCall(
        *("from_folder-invert", lambda: folder(invert=None)),
        *(TypeError, "invert", "None", "True or False"),
    ),
    WrongCall(
        *("from_folder-ways", lambda: folder(ways=-5)),
        *(ValueError, "ways", "-5", "at least 1"),
    ),
    WrongCall(
        *("glyphs-split", lambda: glyphs("valid")),
        *(ValueError, "split", "'valid'", "'validation'"),
    ),
    WrongCall(
        *("glyphs-split-number", lambda: glyphs(3)),
        *(ValueError, "split", "got 3", "'train'"),
    ),
    WrongCall(
        *("glyphs-shots", lambda: glyphs(shots=0)),
        *(ValueError, "shots", "got 0", "at least 1"),
    ),
    WrongCall(
        *("glyphs-ways", lambda: glyphs(ways=5.0)),
        *(TypeError, "ways", "5.0", "Python integer"),
    ),
]
