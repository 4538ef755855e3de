"""An Omniglot-like benchmark from the fonts that matplotlib carries."""

import functools

import numpy as np

from jmeta._core import validate
from jmeta.data import _cache, _checks, _kinds, _render
from jmeta.data._arrays import from_arrays
from jmeta.data._sampling import FewShot

_NAMES = ("letters", "images", "everywhere", "somewhere")

_VERSION = 1
"""Raised when something else is drawn, so that what was cached is drawn anew."""


def glyphs(
    split: str = "train",
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
    rotations: bool = True,
    distortion: float = 0.1,
) -> FewShot:
    """N-way K-shot classification of letters, without a download.

    About 1,400 letters of the Latin, Greek, Cyrillic, Armenian and Georgian alphabets,
    accented ones included, each by 12 hands: DejaVu Sans, Sans Mono and Serif in four
    styles. They are 28 by 28 pixels, 1 where there is ink, 20 pixels long. The first
    call draws them, which takes some seconds, and keeps them in the user's cache
    directory (`$XDG_CACHE_HOME/jmeta`, else where the system has such files).

    The splits share no letter and no variant of one. Letters are of one kind if they
    have the same base letter, without accents, strokes and hooks, and with case folded,
    or if they look alike in some hand, upright or turned by a multiple of 90 degrees,
    as Latin A and Greek Alpha do, or n and u. Whole kinds are dealt out: 68 % of the
    letters train, 14 % validate, 18 % test. Letters that look alike in every hand
    are one class; ligatures and marks are left out.

    Args:
        split: "train", "validation" or "test".
        ways: Letters in a task, N.
        shots: Images of each letter to adapt to, K.
        queries: Images of each letter to judge by, Q; `shots + queries` is at most the
            12 hands.
        rotations: As in `from_arrays`: four classes of one, as Omniglot's papers do.
        distortion: As in `from_arrays`.

    Returns:
        `sample(key) -> Task`, see `FewShot`: support x of shape `[N * K, 28, 28, 1]` in
        float32 and y `[N * K]` in int32, letter after letter; the query with Q in
        place of K.

    Raises:
        ValueError: There is no such split; `ways`, `shots` or `queries` are below 1 or
            more than there is.
        FileNotFoundError: This matplotlib comes without the fonts.

    Example:
        >>> import jax
        >>> sample = glyphs("test", ways=3, shots=2, queries=4)
        >>> task = sample(jax.random.key(0))
        >>> task.support[0].shape, task.query[1].tolist()
        ((6, 28, 28, 1), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])

    References:
        Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through
        probabilistic program induction, doi:10.1126/science.aab3050 (Omniglot).
        Santoro et al. (2016), One-shot learning with memory-augmented neural networks,
        arXiv:1605.06065 (rotations).
    """
    validate.one_of("split", split, _kinds.SPLITS)
    _checks.counts(ways=ways, shots=shots, queries=queries)
    letters, images, split_of = _letters()
    places = np.flatnonzero(split_of == split)
    hands = images.shape[1]
    return from_arrays(
        images[places].reshape(-1, *images.shape[2:]),
        np.repeat(letters[places], hands),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        distortion=distortion,
    )


@functools.cache
def _letters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The letters, their images `[letters, hands, 28, 28]`, and their splits."""
    import matplotlib
    import PIL

    drawn_by = f"matplotlib{matplotlib.__version__}-pillow{PIL.__version__}"
    arrays = _cache.cached(f"glyphs{_VERSION}-{drawn_by}.npz", _NAMES, _draw)
    kinds = _kinds.kinds(arrays["letters"].tolist(), arrays["somewhere"])
    kept = _kinds.first_of_each(len(kinds), arrays["everywhere"])
    splits = _kinds.splits([kinds[place] for place in kept])
    return arrays["letters"][kept], arrays["images"][kept], np.array(splits)


def _draw() -> _cache.Arrays:
    """Draw the letters and find those that look alike."""
    files = _render.font_files()
    letters = [c for c in _render.shared_letters(files) if _kinds.base_letter(c)]
    images = _render.draw(letters, files)
    everywhere, somewhere = _kinds.look_alikes(images)
    arrays = np.array(letters), images, everywhere, somewhere
    return dict(zip(_NAMES, arrays, strict=True))
