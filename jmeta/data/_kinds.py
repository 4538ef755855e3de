"""Which letters are one kind, and which kinds are for training and which for testing.

Two letters are of one kind if

- they have the same base letter, which comes from three steps: Unicode's compatibility
  decomposition, which removes accents and superscripts; removal of what comes after
  WITH in the letter's name, such as a stroke or a hook; and case folding;
- or they look alike in one of the fonts, upright or turned by a multiple of 90 degrees:
  Latin A, Greek Alpha and Cyrillic A; n and u.

Each kind belongs to one split, so that no variant of a test letter is in training.
Letters of several base letters, such as the ligature fi, are left out, and so are marks
that Unicode counts as letters, such as primes. Of letters that look alike upright in
every font, only the first is kept, since nobody could tell them apart.
"""

import collections
import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np

MAX_DIFFERENCE = 0.01
"""Two letters look alike if their squared difference is less than this share of ink."""

SPLITS = "train", "validation", "test"

_SPLIT_CYCLE = tuple(
    {".": "train", "v": "validation", "t": "test"}[c] for c in "....tvt..v"
)
"""The splits that kinds go to in turn, from the largest kind to the smallest."""


def base_letter(letter: str) -> str | None:
    """A letter without case, accents and strokes; None for a ligature or a mark.

    Example:
        >>> [base_letter(letter) for letter in ("Ǻ", "ø", "ᴬ", "ﬁ", "ʹ")]
        ['a', 'o', 'a', None, None]
    """
    bare = _decomposed(letter)
    if len(bare) != 1 or unicodedata.category(bare) == "Lm":
        return None
    name = unicodedata.name(bare).partition(" WITH ")[0]
    try:
        bare = unicodedata.lookup(name)
    except KeyError:
        pass  # the part before WITH is no letter's name
    # Case folding gives some letters an accent, so decompose once more.
    return _decomposed(bare.casefold())[:1]


def _decomposed(letter):
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(c for c in parts if unicodedata.category(c)[0] == "L")


def look_alikes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of letters that look alike, by their indices.

    Args:
        images: Images `[letters, fonts, size, size]`, uint8.

    Returns:
        The pairs that look alike upright in every font, and those that look alike in
        some font at some turn, both of shape `[pairs, 2]`.
    """
    count = len(images)
    everywhere = np.ones((count, count), bool)
    somewhere = np.zeros((count, count), bool)
    for font in np.moveaxis(images.astype(np.float32), 1, 0):
        everywhere &= _alike_pairs(font, font)
        # Three quarter turns are one with the letters swapped, which the transpose
        # below adds.
        for turns in range(3):
            somewhere |= _alike_pairs(font, np.rot90(font, turns, axes=(1, 2)))
    return _pairs(everywhere), _pairs(somewhere | somewhere.T)


def _alike_pairs(one, other):
    """Which images of `one` look like which images of `other`, `[letters, letters]`."""
    one, other = one.reshape(len(one), -1), other.reshape(len(other), -1)
    ink = (one**2).sum(1)[:, None] + (other**2).sum(1)[None]
    return ink - 2 * one @ other.T < MAX_DIFFERENCE * ink


def _pairs(alike):
    return np.argwhere(np.triu(alike, 1))


def kinds(letters: Sequence[str], somewhere: np.ndarray) -> list[str]:
    """The kind of each letter, named by the first of its base letters.

    Args:
        letters: Letters, each with a base letter.
        somewhere: Pairs of indices of letters that look alike in some font.
    """
    bases = [base_letter(letter) or letter for letter in letters]
    parent = {base: base for base in bases}

    def root(base):
        while parent[base] != base:
            base = parent[base]
        return base

    for one, other in somewhere:
        first, second = sorted((root(bases[one]), root(bases[other])))
        parent[second] = first
    return [root(base) for base in bases]


def distinct_letters(count: int, everywhere: np.ndarray) -> list[int]:
    """The indices of the letters that look like no earlier one in every font.

    Args:
        count: Number of letters.
        everywhere: Pairs of indices of letters that look alike in every font.
    """
    repeated = set(everywhere[:, 1].tolist())
    return [index for index in range(count) if index not in repeated]


def splits(kinds: Sequence[str]) -> list[str]:
    """The split of each letter, given their kinds."""
    sizes = collections.Counter(kinds)
    ordered = sorted(sizes, key=lambda kind: (-sizes[kind], kind))
    dealt = dict(zip(ordered, itertools.cycle(_SPLIT_CYCLE), strict=False))
    return [dealt[kind] for kind in kinds]
