"""An image file as an array of greys or colours."""

import pathlib
from typing import Any

import numpy as np

from jmeta._core import extras


def read(file: pathlib.Path, size: int, channels: int) -> np.ndarray:
    """An image as `[size, size, channels]`, uint8, or float32 from 0 to 1.

    Float32 where the file has more than 8 bits a grey. Transparency is left out.

    Raises:
        OSError: The file cannot be read, or is no image, or not a whole one.
        ValueError: Its numbers are no greys.
    """
    Image = extras.load("PIL.Image", "data", "`from_folder`")
    if not file.stat().st_size:
        raise ValueError("empty")
    with Image.open(file) as image:
        image.load()
        if image.mode.startswith("I") or image.mode == "F":
            pixels = Image.fromarray(_greys(image)).resize((size, size))
            # between pixels a cubic goes beyond them
            greys = np.asarray(pixels).clip(0.0, 1.0)[..., None]
            return np.repeat(greys, channels, axis=2)
        if image.mode == "P":  # of colours that may be transparent, each its own way
            image = image.convert("RGBA")
        pixels = image.convert("L" if channels == 1 else "RGB").resize((size, size))
    return np.asarray(pixels).reshape(size, size, channels)


def _greys(image: Any) -> np.ndarray:
    """Greys of 16 or 32 bits or of floats, from 0 to 1 in float32."""
    values = np.asarray(image)
    # Pillow gives 16 bits as "I;16" and its like, and of some formats as "I"
    white = 1.0 if image.mode == "F" else 65535.0
    low, high = values.min(), values.max()
    if not (0 <= low <= high <= white):
        raise ValueError(
            f"greys from {low} to {high}, which must be from 0 to {white:g}"
        )
    return (values / white).astype(np.float32)
