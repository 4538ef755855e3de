"""Which letters are one kind, and which kinds are for training and which for testing.

Two letters are of one kind if

- they have the same base letter: after Unicode's compatibility decomposition, which
  takes off accents and raises what is a superscript to its letter, then without what
  comes after WITH in its name, such as a stroke or a hook, then case-folded;
- or they look alike in one of the fonts, upright or turned by a multiple of 90 degrees:
  Latin A, Greek Alpha and Cyrillic A; n and u.

Whole kinds are dealt out to the splits, so that none of a test letter's variants is in
training. Letters of several base letters, such as the ligature fi, are left out, and so
are marks that Unicode counts as letters, such as primes. Of letters that look alike in
every font, upright, only the first is kept: a task could not tell them apart.
"""

import collections
import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np

ALIKE = 0.01
"""Letters look alike that differ, in squares, by less than this share of their ink."""

SPLITS = "train", "validation", "test"

_DEAL = tuple({".": "train", "v": "validation", "t": "test"}[c] for c in "....tvt..v")
"""Where kinds go in turn, from the largest to the smallest; the largest few train."""


def base_letter(letter: str) -> str | None:
    """What a letter is without case, accents, strokes; None of a ligature or a mark.

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
        pass  # the part before WITH is not itself a letter's name
    # some letters fold to themselves with an accent that stands for a lost one
    return _decomposed(bare.casefold())[:1]


def _decomposed(letter):
    parts = unicodedata.normalize("NFKD", letter)
    return "".join(c for c in parts if unicodedata.category(c)[0] == "L")


def look_alikes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of letters that look alike, by their places.

    Args:
        images: `[letters, fonts, size, size]`, uint8.

    Returns:
        Those upright in every font and those in some font at some turn, `[pairs, 2]`.
    """
    count = len(images)
    everywhere = np.ones((count, count), bool)
    somewhere = np.zeros((count, count), bool)
    for font in np.moveaxis(images.astype(np.float32), 1, 0):
        everywhere &= _alike(font, font)
        # the fourth turn is the first with the letters in the other order
        for turns in range(3):
            somewhere |= _alike(font, np.rot90(font, turns, axes=(1, 2)))
    return _pairs(everywhere), _pairs(somewhere | somewhere.T)


def _alike(one, other):
    """Which images of the one differ from which of the other by little."""
    one, other = one.reshape(len(one), -1), other.reshape(len(other), -1)
    ink = (one**2).sum(1)[:, None] + (other**2).sum(1)[None]
    return ink - 2 * one @ other.T < ALIKE * ink


def _pairs(alike):
    return np.argwhere(np.triu(alike, 1))


def kinds(letters: Sequence[str], somewhere: np.ndarray) -> list[str]:
    """The kind of each letter, named by the first of its base letters.

    Args:
        letters: Letters, each with a base letter.
        somewhere: Pairs of places of those that look alike.
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


def first_of_each(count: int, everywhere: np.ndarray) -> list[int]:
    """The places, of `count` letters, whose look no earlier letter has everywhere."""
    taken = set(everywhere[:, 1].tolist())
    return [place for place in range(count) if place not in taken]


def splits(kinds: Sequence[str]) -> list[str]:
    """The split of each letter, given their kinds."""
    sizes = collections.Counter(kinds)
    ordered = sorted(sizes, key=lambda kind: (-sizes[kind], kind))
    dealt = dict(zip(ordered, itertools.cycle(_DEAL), strict=False))
    return [dealt[kind] for kind in kinds]
