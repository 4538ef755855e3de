"""What every sampler promises, and what tasks from arrays and curves consist of."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import Task, data
from tests.helpers import F32, assert_trees_close

COUNTS = (5, 3, 7, 4, 3, 6)
"""Images in each class of `NUMBERED`."""


def numbered(counts=COUNTS):
    """Images whose pixels say their class and their number within it, shuffled."""
    labels = np.repeat(np.arange(len(counts)), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    images = np.zeros((len(labels), 4, 4), np.float32)
    images[:, 0, 0], images[:, 0, 1] = labels + 1, within + 1
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order], labels[order]


def noise(count=24):
    """Images without any symmetry."""
    return np.random.default_rng(1).integers(0, 256, (count, 6, 6, 2), np.uint8)


SAMPLERS = {
    "sinusoid": data.sinusoid(shots=3, queries=4),
    "harmonics": data.harmonics(shots=3, queries=4, noise=0.1),
    "from_arrays": data.from_arrays(*numbered(), ways=4, shots=1, queries=2),
    "distorted": data.from_arrays(
        *(noise(), np.arange(24) % 4), ways=3, rotations=True, distortion=0.2
    ),
}


def tasks_of(sample, size, key):
    """Tasks of a compiled batch, which eagerly takes long."""
    return jax.jit(data.batch(sample, size))(key)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(name):
    sample = SAMPLERS[name]
    keys = jax.random.split(jax.random.key(1), 3)
    one = sample(keys[0])
    assert isinstance(one, Task)
    assert_trees_close(sample(keys[0]), one, 0)
    assert not np.array_equal(sample(keys[1]).support[0], one.support[0])

    compiled = jax.jit(sample)
    tasks = [compiled(key) for key in keys]
    assert_trees_close(tasks[0], one, F32, F32)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    assert_trees_close(tasks_of(sample, 3, jax.random.key(1)), stacked, F32, F32)


@pytest.mark.parametrize("name", ["from_arrays", "distorted"])
def test_tasks_of_images_do_not_depend_on_the_precision(name):
    task = SAMPLERS[name](jax.random.key(2))
    assert task.support[0].dtype == task.query[0].dtype == jnp.float32
    assert task.support[1].dtype == task.query[1].dtype == jnp.int32
    with jax.enable_x64(False):
        assert_trees_close(SAMPLERS[name](jax.random.key(2)), task, 0)


@pytest.mark.parametrize("name", ["from_arrays", "distorted"])
def test_sampler_is_a_pytree_of_its_data(name):
    sample, key = SAMPLERS[name], jax.random.key(3)
    draw = jax.jit(lambda sample, key: sample(key))
    assert_trees_close(draw(sample, key), jax.jit(sample)(key), F32, F32)
    jaxpr = jax.make_jaxpr(lambda sample, key: sample(key))(sample, key)
    assert all(np.size(const) < sample.images.size for const in jaxpr.consts)


def test_sinusoid_has_its_amplitude_phase_and_inputs():
    ranges = {"amplitude": (2.0, 3.0), "phase": (0.5, 1.0), "inputs": (-1.0, 4.0)}
    tasks = tasks_of(data.sinusoid(shots=3, queries=4, **ranges), 20, jax.random.key(4))
    for (x3, y3), (x4, y4) in zip(*map(_each, tasks), strict=True):
        assert x3.shape == y3.shape == (3, 1)
        assert x4.shape == y4.shape == (4, 1)
        x, y = np.concatenate([x3, x4])[:, 0], np.concatenate([y3, y4])[:, 0]
        assert np.all((x >= -1) & (x <= 4))
        basis = np.stack([np.sin(x), -np.cos(x)], axis=1)
        (sine, cosine), residual, *_ = np.linalg.lstsq(basis, y, rcond=None)
        assert residual < 1e-20
        assert 2 <= np.hypot(sine, cosine) <= 3
        assert 0.5 <= np.arctan2(cosine, sine) <= 1


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_harmonics_are_two_waves_and_noise(level):
    sample = data.harmonics(shots=150, queries=50, noise=level)
    task = sample(jax.random.key(5))
    x, y = (np.concatenate(both)[:, 0] for both in zip(*task, strict=True))
    frequencies = np.linspace(5, 7, 4001)

    def residual(frequency):
        waves = [f(n * frequency * x) for f in (np.sin, np.cos) for n in (1, 2)]
        return np.linalg.lstsq(np.stack(waves, axis=1), y, rcond=None)[1][0] / len(x)

    found = np.sqrt(min(map(residual, frequencies)))
    assert np.std(y) > 0.5
    # on the grid the frequency is off by up to a 1/4000, and x is of size 5
    np.testing.assert_allclose(found, level, rtol=0.1, atol=0.01)
    assert abs(x.mean()) < 4.5
    assert 0.8 < x.std() < 1.2


def test_tasks_are_labelled_and_without_repetition():
    tasks = tasks_of(SAMPLERS["from_arrays"], 300, jax.random.key(6))
    seen, firsts = [], set()
    for support, query in zip(*map(_each, tasks), strict=True):
        assert support[1].tolist() == [0, 1, 2, 3]
        assert query[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        classes = support[0][:, 0, 0, 0]
        assert len(set(classes)) == 4
        assert np.array_equal(query[0][:, 0, 0, 0], np.repeat(classes, 2))
        firsts.add(classes[0])
        x = np.concatenate([support[0], query[0]])[:, 0, :2, 0].astype(int) - 1
        images = list(map(tuple, x.tolist()))
        assert len(set(images)) == 12
        seen += images
    assert len(firsts) == 6  # labels are in no order of the classes
    # every class and every image of it, as often as the others
    classes = np.bincount([c for c, _ in seen], minlength=6) / len(seen)
    np.testing.assert_allclose(classes, 1 / 6, rtol=0.15)
    for c, count in enumerate(COUNTS):
        within = np.bincount([i for d, i in seen if c == d])
        np.testing.assert_allclose(within / within.sum(), np.ones(count) / count, 0.25)


def test_all_there_is_can_be_asked_for(key):
    images, labels = numbered((3, 3))
    task = data.from_arrays(images, labels, ways=2, shots=1, queries=2)(key)
    x = np.concatenate([task.support[0], task.query[0]])
    assert sorted(map(bytes, x)) == sorted(map(bytes, images))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.full((4, 2, 2), 51, np.uint8), 0.2),
        (np.ones((4, 2, 2), bool), 1.0),
        (np.full((4, 2, 2, 3), 300.0), 300.0),
        (jnp.full((4, 2, 2, 1), -0.5, jnp.bfloat16), -0.5),
    ],
)
def test_pixels(images, expected, key):
    labels = np.array(["alpha", "beta", "alpha", "beta"])
    task = data.from_arrays(images, labels, ways=2, shots=1, queries=1)(key)
    channels = images.shape[3] if images.ndim == 4 else 1
    everywhere = jnp.full((2, 2, 2, channels), expected)
    assert task.support[0].dtype == jnp.float32
    assert_trees_close(task.support[0], everywhere, F32)


def test_rotations_turn_a_class_as_a_whole():
    images = np.repeat(noise(3), 3, axis=0)
    labels = np.repeat(np.arange(3), 3)
    sample = data.from_arrays(
        images, labels, ways=2, shots=1, queries=2, rotations=True
    )
    turned = {
        np.rot90(image, turns).tobytes(): (c, turns)
        for c, image in enumerate(noise(3))
        for turns in range(4)
    }
    seen = set()
    tasks = tasks_of(sample, 60, jax.random.key(8))
    for support, query in zip(*map(_each, tasks), strict=True):
        found, queried = (
            [turned[np.round(255 * x).astype(np.uint8).tobytes()] for x in images]
            for images in (support[0], query[0])
        )
        assert queried[::2] == queried[1::2] == found
        assert found[0][0] != found[1][0]
        seen |= set(found)
    assert seen == set(turned.values())


def test_distortion_is_an_affine_map_of_its_own_for_each_image(key):
    row, column = np.mgrid[:9, :9]
    ramps = np.stack([row + 2.0 * column, np.full((9, 9), 0.3)], axis=-1)[None]
    images, labels = np.repeat(ramps, 6, axis=0), np.arange(6) % 2

    def draw(distortion):
        sample = data.from_arrays(
            images, labels, ways=2, queries=2, distortion=distortion
        )
        task = sample(key)
        return np.concatenate([task.support[0], task.query[0]])

    assert_trees_close(draw(0.0), images, F32)
    for distortion in (0.1, 0.2):
        x = draw(distortion)
        assert_trees_close(x[..., 1], images[..., 1], F32)
        # what is linear stays so, up to what came in at the edges
        inner = x[:, 3:-3, 3:-3, 0]
        assert_trees_close(np.diff(inner, 2, 1), np.zeros((6, 1, 3)), 0, 1e-4)
        assert_trees_close(np.diff(inner, 2, 2), np.zeros((6, 3, 1)), 0, 1e-4)
        slopes = np.stack(
            [np.diff(inner, 1, 1)[:, 0, 0], np.diff(inner, 1, 2)[:, 0, 0]]
        )
        # rows grow by 1 and columns by 2, of which each may take a share of the other
        change = np.abs(slopes - np.array([[1.0], [2.0]]))
        assert np.all(change <= 3 * distortion + 1e-4)
        assert change.max() > distortion
        shift = np.abs(x[:, 4, 4, 0] - 12)
        assert np.all(shift <= 3 * distortion * 4.5 + 1e-4)
        assert len(np.unique(shift)) == 6


IMAGES, LABELS = numbered()
FLAT: dict[str, Any] = {"ways": 2, "shots": 1, "queries": 1}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: data.from_arrays(IMAGES, LABELS, ways=7, queries=1),
            ValueError,
            "at least `ways`=7 classes; got 6",
        ),
        (
            lambda: data.from_arrays(IMAGES, LABELS, shots=2, queries=2),
            ValueError,
            "`shots [+] queries`=4 images.* class 1 has 3",
        ),
        (
            lambda: data.from_arrays(IMAGES, LABELS[:-1], **FLAT),
            ValueError,
            r"one entry for each of the 28 images; got shape \(27,\)",
        ),
        (
            lambda: data.from_arrays(IMAGES[:, 0], LABELS, **FLAT),
            ValueError,
            r"`images` must be .* got shape \(28, 4\)",
        ),
        (
            lambda: data.from_arrays(IMAGES.astype(int), LABELS, **FLAT),
            TypeError,
            "`images` must be uint8, bool or floats; got int64",
        ),
        (
            lambda: data.from_arrays(IMAGES[:, 1:], LABELS, **FLAT, rotations=True),
            ValueError,
            "`rotations` needs square images; got 3 by 4",
        ),
        (
            lambda: data.from_arrays(IMAGES, LABELS, ways=2, shots=0),
            ValueError,
            "`shots` must be at least 1; got 0",
        ),
        (lambda: data.sinusoid(queries=0), ValueError, "`queries` must be .* got 0"),
        (
            lambda: data.harmonics(shots=cast(int, 2.5)),
            TypeError,
            "`shots` must be .* got 2.5",
        ),
        (
            lambda: data.batch(data.sinusoid(), 0),
            ValueError,
            "`size` must be at least 1",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def _each(part):
    """The (x, y) of each task of a batch, in numpy."""
    x, y = map(np.asarray, part)
    return list(zip(x, y, strict=True))
