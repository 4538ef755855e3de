"""Read an image file as an array of greys or colours."""

import pathlib
from typing import Any

import numpy as np

from jmeta._core import extras


def read_image(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """Read an image as an array `[size, size, channels]`.

    The array is uint8, or float32 from 0 to 1 if the file has greys of more than 8
    bits. Transparency is left out.

    Args:
        file: The file.
        size: Height and width to resize the image to, in pixels.
        channels: 1 for greys, 3 for colours.

    Raises:
        OSError: The file cannot be read, or is no whole image.
        ValueError: The file is empty, or its greys are out of range.
    """
    Image = extras.load("PIL.Image", "data", "`from_folder`")
    if not file.stat().st_size:
        raise ValueError("empty")
    with Image.open(file) as image:
        image.load()
        if image.mode.startswith("I") or image.mode == "F":
            pixels = Image.fromarray(_greys(image)).resize((size, size))
            # Cubic interpolation can go beyond the range of the pixels.
            greys = np.asarray(pixels).clip(0.0, 1.0)[..., None]
            return np.repeat(greys, channels, axis=2)
        # The colours of a palette may be transparent in part: convert those first.
        if image.mode == "P":
            image = image.convert("RGBA")
        pixels = image.convert("L" if channels == 1 else "RGB").resize((size, size))
    return np.asarray(pixels).reshape(size, size, channels)


def _greys(image: Any) -> np.ndarray:
    """Greys of 16 or 32 bits or floats as float32, from 0 to 1."""
    values = np.asarray(image)
    # Pillow reads greys of 16 bits as mode "I;16" or similar, in some formats as "I".
    white = 1.0 if image.mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (0 <= low <= high <= white):
        raise ValueError(
            f"greys from {low} to {high}, which must be from 0 to {white:g}"
        )
    return (values / white).astype(np.float32)
