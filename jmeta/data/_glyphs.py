"""A benchmark like Omniglot, from the fonts that come with matplotlib."""

import functools

import numpy as np

from jmeta._core import validate
from jmeta.data import _cache, _checks, _kinds, _render
from jmeta.data._arrays import from_arrays
from jmeta.data._sampling import FewShot

_NAMES = ("letters", "images", "everywhere", "somewhere")

_VERSION = 1
"""Increased with each change of the drawings, so that older caches are not used."""


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
    accented ones included, each in 12 fonts: DejaVu Sans, Sans Mono and Serif in four
    styles. Images have 28 by 28 pixels, 1 where there is ink; the longer side of a
    letter takes 20 of them. The first call draws the letters, which takes some seconds,
    and keeps them in the user's cache directory (`$XDG_CACHE_HOME/jmeta`, or the
    system's own place for such files).

    The splits share no letter and no variant of one. Two letters are of one kind if
    they have the same base letter, without accents, strokes, hooks and case, or if they
    look alike in some font, upright or turned by a multiple of 90 degrees, such as
    Latin A and Greek Alpha, or n and u. Each kind belongs to one split: 68 % of the
    letters are for training, 14 % for validation, 18 % for testing. Letters that look
    alike in every font are one class. Ligatures and marks are left out.

    Args:
        split: "train", "validation" or "test".
        ways: Number of letters in a task, N.
        shots: Images of each letter to adapt to, K.
        queries: Images of each letter to judge by, Q; `shots + queries` is at most 12,
            the number of fonts.
        rotations: Whether to turn each class of a task by a random multiple of 90
            degrees, which makes four classes of one; see `from_arrays`.
        distortion: Strength of a random affine map of each image, such as 0.1; 0 leaves
            images as they are. See `from_arrays`.

    Returns:
        A `FewShot`, `sample(key) -> Task`. The support has x of shape
        `[N * K, 28, 28, 1]` in float32 and y of shape `[N * K]` in int32, letter after
        letter. The query has Q in place of K.

    Raises:
        ValueError: There is no such split; or `ways`, `shots` or `queries` is below 1
            or more than there are letters or images.
        FileNotFoundError: The installed matplotlib lacks the fonts.

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
    chosen = np.flatnonzero(split_of == split)
    fonts = images.shape[1]
    return from_arrays(
        images[chosen].reshape(-1, *images.shape[2:]),
        np.repeat(letters[chosen], fonts),
        ways=ways,
        shots=shots,
        queries=queries,
        rotations=rotations,
        distortion=distortion,
    )


@functools.cache
def _letters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The letters, their images `[letters, fonts, 28, 28]` and their splits."""
    import matplotlib
    import PIL

    drawn_by = f"matplotlib{matplotlib.__version__}-pillow{PIL.__version__}"
    arrays = _cache.load_or_make(
        f"glyphs{_VERSION}-{drawn_by}.npz", _NAMES, _draw_and_compare
    )
    kinds = _kinds.kinds(arrays["letters"].tolist(), arrays["somewhere"])
    kept = _kinds.distinct_letters(len(kinds), arrays["everywhere"])
    splits = _kinds.splits([kinds[index] for index in kept])
    return arrays["letters"][kept], arrays["images"][kept], np.array(splits)


def _draw_and_compare() -> _cache.Arrays:
    """Draw the letters and find those that look alike."""
    files = _render.font_files()
    letters = [c for c in _render.shared_letters(files) if _kinds.base_letter(c)]
    images = _render.draw_letters(letters, files)
    everywhere, somewhere = _kinds.look_alikes(images)
    arrays = np.array(letters), images, everywhere, somewhere
    return dict(zip(_NAMES, arrays, strict=True))
