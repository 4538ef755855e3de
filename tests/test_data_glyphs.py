"""The glyphs: what is drawn, how it is split, and that the cache is always whole."""

import itertools
import sys
import unicodedata

import jax
import numpy as np
import pytest

from jmeta import data
from jmeta.data import _cache, _kinds, _render
from tests.helpers import assert_trees_close

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, in which the first test draws all letters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        forget()
        yield _cache.folder()
    forget()


def forget():
    """Make the next call read the cache."""
    GLYPHS._letters.cache_clear()


# `jmeta.data.glyphs` is the function
GLYPHS = sys.modules[data.glyphs.__module__]


def letters():
    """Letters and images of each split."""
    names, images, splits = GLYPHS._letters()
    return {s: (names[splits == s].tolist(), images[splits == s]) for s in SPLITS}


def test_there_are_as_many_as_is_said():
    sizes = np.array([len(names) for names, _ in letters().values()])
    assert 1350 <= sizes.sum() < 1450
    np.testing.assert_allclose(sizes / sizes.sum(), [0.68, 0.14, 0.18], atol=0.005)
    for names, images in letters().values():
        assert images.shape == (len(names), len(_render.FONTS), 28, 28)
        assert images.dtype == np.uint8


def test_all_of_five_alphabets_are_there():
    found = set().union(*(names for names, _ in letters().values()))
    everything = set(_render.shared_letters(_render.font_files()))
    assert len(everything) > 1500
    for alphabet in ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"):
        theirs = {c for c in everything if unicodedata.name(c).startswith(alphabet)}
        assert len(theirs) > 40
        # the others are superscripts, ligatures, or look as another letter does
        assert len(theirs & found) > 0.7 * len(theirs)


def test_letters_are_centred_and_fill_the_middle():
    for names, images in letters().values():
        for name, hands in zip(names, images, strict=True):
            for image in hands:
                rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
                # a part of a pixel may be at either end
                size = max(np.ptp(rows), np.ptp(columns)) + 1
                assert 20 <= size <= 21, name
                for place in (rows, columns):
                    assert abs(place[0] + place[-1] - 27) <= 1, name
                assert image.max() > 60, name


def variants(letter):
    """Base letters by Unicode alone, written apart from what the library does."""
    parts = set(unicodedata.normalize("NFKD", letter))
    # strokes and hooks are in a letter's name only
    stems = {unicodedata.name(part).partition(" WITH ")[0] for part in parts}
    known = {unicodedata.lookup(stem) for stem in stems if _is_name(stem)}
    folded = unicodedata.normalize("NFKD", "".join(parts | known).casefold())
    return {c for c in folded if not unicodedata.combining(c)}


def _is_name(stem):
    try:
        return bool(unicodedata.lookup(stem))
    except KeyError:
        return False


def test_variants():
    assert {"a"} == variants("Ǻ") == variants("ᴬ")
    assert variants("ø") == {"o", "ø"}


def test_no_variant_of_a_letter_is_in_two_splits():
    bare = {
        split: set().union(*map(variants, names))
        for split, (names, _) in letters().items()
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not bare[one] & bare[other]


def test_no_image_is_in_two_splits_at_any_turn():
    turned = {
        split: {
            np.rot90(image, turns).tobytes()
            for image in images.reshape(-1, 28, 28)
            for turns in range(4)
        }
        for split, (_, images) in letters().items()
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not turned[one] & turned[other]
    # twelve hands draw no two letters alike
    everything = [i.tobytes() for _, images in letters().values() for i in images]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    ("alike", "letters"),
    [
        (True, "Aa\N{LATIN CAPITAL LETTER A WITH DIAERESIS}ɐ"),
        (True, "A\N{GREEK CAPITAL LETTER ALPHA}\N{CYRILLIC CAPITAL LETTER A}"),
        (True, "OoØ\N{GREEK SMALL LETTER OMICRON}"),
        (True, "nuh"),
        (False, "ae"),
        (False, "жщ"),
    ],
)
def test_kinds(alike, letters):
    (path,) = _cache.folder().iterdir()
    drawn = _cache.load_or_make(path.name, GLYPHS._NAMES, _never)
    names = drawn["letters"].tolist()
    kinds = _kinds.kinds(names, drawn["somewhere"])
    assert (len({kinds[names.index(c)] for c in letters}) == 1) is alike


def test_kinds_are_dealt_from_the_largest():
    kinds = [*"aaaa", *"bbb", *"cc", *"dd", *"efghij"]
    train, validation, test = SPLITS
    expected = [train] * 11 + [test, validation, test, train, train, validation]
    assert _kinds.splits(kinds) == expected


def test_letters_that_look_alike_are_found():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 2, 28, 28), np.uint8)
    images[1] = images[0]
    images[2, 1] = images[0, 1]
    images[4, 0] = np.rot90(images[3, 0])
    everywhere, somewhere = _kinds.look_alikes(images)
    assert everywhere.tolist() == [[0, 1]]
    assert somewhere.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4]]
    assert _kinds.distinct_letters(5, everywhere) == [0, 2, 3, 4]


@pytest.mark.parametrize("split", SPLITS)
def test_tasks(split):
    sample = data.glyphs(split, ways=4, shots=5, queries=7, distortion=0.0)
    (x, y), (query_x, query_y) = sample(jax.random.key(0))
    assert (x.shape, query_x.shape) == ((20, 28, 28, 1), (28, 28, 28, 1))
    assert np.array_equal(y, np.repeat(np.arange(4), 5))
    assert np.array_equal(query_y, np.repeat(np.arange(4), 7))
    assert x.min() == 0.0
    assert x.max() == 1.0  # ink
    # all twelve hands of a letter of this split, at one of four turns
    both = np.concatenate([x.reshape(4, 5, 28, 28), query_x.reshape(4, 7, 28, 28)], 1)
    pixels = np.round(255 * both).astype(np.uint8)
    turned = [np.rot90(pixels, turns, (2, 3)) for turns in range(4)]
    known = {frozenset(map(bytes, hands)) for hands in letters()[split][1]}
    found = [{frozenset(map(bytes, hands)) for hands in turn} for turn in turned]
    assert len(known & set().union(*found)) == 4


def test_distorted_letters_stay_in_the_picture():
    tasks = jax.jit(data.batch(data.glyphs("test"), 50))(jax.random.key(0))
    x = np.asarray(tasks.query[0])
    edges = (x[..., 0, :, :], x[..., -1, :, :], x[..., 0, :], x[..., -1, :])
    assert sum(edge.sum() for edge in edges) < 1e-5 * x.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"split": "valid"},
            "`split` must be 'train' or 'validation' or 'test'; got 'valid'",
        ),
        ({"shots": 8}, "`shots [+] queries`=13 images.* has 12"),
        ({"split": "test", "ways": 300}, "at least `ways`=300 classes"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.glyphs(**arguments)


def test_missing_fonts(monkeypatch):
    monkeypatch.setattr(_render, "FONTS", ("DejaVuNonsense",))
    with pytest.raises(FileNotFoundError, match=r"DejaVuNonsense\.ttf is missing"):
        _render.font_files()


def test_letters_are_drawn_once(cache, monkeypatch):
    (path,) = cache.iterdir()
    before = letters()
    monkeypatch.setattr(GLYPHS, "_draw_and_compare", _never)
    forget()
    assert_trees_close(letters()["test"][1], before["test"][1], 0)
    assert list(cache.iterdir()) == [path]


def _never():
    raise AssertionError("computed again")
