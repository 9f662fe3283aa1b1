"""A check of the text in a figure."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text


def assert_readable_on_a_phone(figure: Figure) -> None:
    """Check that all text of a figure that has been drawn is large and dark enough on a phone."""
    pixels = 358 / figure.get_figwidth() / 72  # of a point, where a phone is 390 pixels wide and the page has margins
    for text in figure.findobj(Text):
        if text.get_text():
            assert float(text.get_fontsize()) * pixels >= 9, text.get_text()
            red, green, blue = np.array(to_rgb(text.get_color())) ** 2.2
            contrast = 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
            assert contrast > 4.4, text.get_text()  # 4.5 by the exact formula
