"""Pictures as small PNG files, written whole, that are the same for the same figures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from stages.files import replacing


def save(figure: Figure, path: Path, dpi: int = 110) -> Figure:
    """Write a PNG. Returns the figure itself, which still knows what is drawn on it."""
    with replacing(path) as temporary:
        # The format is named because the temporary file's name does not end in .png.
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
    return figure
