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
    return built_in_fonts(tmp_path_factory.mktemp("fonts"))


def built_in_fonts(folder: Path) -> Fonts:
    """That font under two names, as a file in this folder."""
    path = built_in(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lacks = frozenset("€£")
    return Fonts(
        tuple(Face(family, style, path, digest, lacks) for family in ("Tuffy", "Lato") for style in ("Bold", "Regular"))
    )
