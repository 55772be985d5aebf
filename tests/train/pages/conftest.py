"""Faces that every machine has: Pillow's built-in one under two names, so that no test needs a package of fonts."""

import hashlib
from pathlib import Path

import pytest
from PIL import ImageFont

from tubelet.train.pages.fonts import Face, Fonts


def built_in(folder: Path) -> Path:
    """Pillow's built-in font as a file."""
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    path = folder / "built-in.ttf"
    path.write_bytes(font.font_bytes)
    return path


@pytest.fixture(scope="session")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Fonts:
    path = built_in(tmp_path_factory.mktemp("fonts"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lacks = frozenset("€£")
    return Fonts(
        tuple(Face(family, style, path, digest, lacks) for family in ("Tuffy", "Lato") for style in ("Bold", "Regular"))
    )
