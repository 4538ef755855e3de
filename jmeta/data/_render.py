"""Draw letters in the DejaVu fonts that come with matplotlib, as small pictures."""

import pathlib
import unicodedata

import numpy as np

from jmeta._core import extras

FONTS = tuple(
    f"DejaVu{family}"
    for family in (
        *("Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique"),
        *("SansMono", "SansMono-Bold", "SansMono-Oblique", "SansMono-BoldOblique"),
        *("Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"),
    )
)
"""The fonts that draw each letter; they stand for the writers of Omniglot."""

SIZE, FILLED = 28, 20
"""Pixels of a picture's side, and of the longer side of the letter in it."""

_EM = 64
"""The font size at which letters are drawn, in pixels, before they are made small."""


def font_files() -> list[pathlib.Path]:
    """The files of the fonts, in the order of `FONTS`."""
    matplotlib = extras.load("matplotlib", "data", "`glyphs`")
    fonts = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = [fonts / f"{name}.ttf" for name in FONTS]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(
                f"The glyphs are drawn in the fonts that matplotlib carries; {file} is"
                " missing. Install matplotlib from PyPI, which brings it."
            )
    return files


def shared_letters(files: list[pathlib.Path]) -> list[str]:
    """The characters in all the fonts that Unicode counts as letters."""
    ft2font = extras.load("matplotlib.ft2font", "data", "`glyphs`")
    tables = (ft2font.FT2Font(str(f)).get_charmap() for f in files)
    codes = set.intersection(*map(set, tables))
    return [c for c in map(chr, sorted(codes)) if unicodedata.category(c)[0] == "L"]


def draw_letters(letters: list[str], files: list[pathlib.Path]) -> np.ndarray:
    """Draw each letter in each font.

    Args:
        letters: The letters.
        files: The files of the fonts.

    Returns:
        Pictures `[letters, fonts, SIZE, SIZE]`, uint8, 255 where there is ink.
    """
    ImageFont = extras.load("PIL.ImageFont", "data", "`glyphs`")
    basic = ImageFont.Layout.BASIC
    fonts = [ImageFont.truetype(str(f), _EM, layout_engine=basic) for f in files]
    return np.stack(
        [[_draw_letter(letter, font) for font in fonts] for letter in letters]
    )


def _draw_letter(letter, font):
    """Draw a letter in the middle of a picture, its longer side `FILLED` pixels."""
    Image, ImageDraw = (
        extras.load(f"PIL.{name}", "data", "`glyphs`")
        for name in ("Image", "ImageDraw")
    )
    left, top, right, bottom = font.getbbox(letter)
    side = 2 * max(right - left, bottom - top)
    canvas = Image.new("L", (side, side))
    corner = ((side - left - right) // 2, (side - top - bottom) // 2)
    ImageDraw.Draw(canvas).text(corner, letter, fill=255, font=font)
    ink = canvas.getbbox()  # without the space that fonts leave around it
    assert ink is not None, letter
    left, top, right, bottom = ink
    x, y = (left + right) / 2, (top + bottom) / 2
    half = max(right - left, bottom - top) * SIZE / FILLED / 2
    box = (x - half, y - half, x + half, y + half)
    # BOX takes the mean over the area of each pixel.
    small = canvas.resize((SIZE, SIZE), Image.Resampling.BOX, box=box)
    return np.asarray(small)
