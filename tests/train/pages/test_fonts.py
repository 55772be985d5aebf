"""Which faces are used: known families, whole alphabets, each look once; and what is said when there are too few."""

import shutil
from pathlib import Path

import pytest

from tubelet.errors import InputError
from tubelet.train.pages import fonts as module
from tubelet.train.pages.fonts import FAMILIES, Family, Fonts, find_fonts


def test_too_few_families_name_the_packages(tmp_path: Path):
    with pytest.raises(InputError, match=r"apt-get install .*fonts-dejavu-core.*fonts-lato") as e:
        find_fonts([tmp_path])
    assert e.value.got == (0, 0)


def test_files_that_are_no_fonts_and_copies_are_left_out(fonts: Fonts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = fonts.faces[0].path
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    shutil.copy(source, tmp_path / "a.ttf")
    shutil.copy(source, tmp_path / "b.otf")
    monkeypatch.setattr(module, "FEWEST", 0)
    assert not find_fonts([tmp_path]).faces  # a family that nobody has looked at
    monkeypatch.setitem(FAMILIES, "Aileron", Family("none", "CC0"))
    found = find_fonts([tmp_path])
    assert [(face.family, face.lacks) for face in found.faces] == [("Aileron", frozenset("€£"))]
    assert found.sha256 == find_fonts([tmp_path]).sha256
    assert found.sha256 != fonts.sha256
    assert found.packages == ("none",)


def test_every_family_says_where_it_is_from_and_some_are_held_out():
    assert all(family.package and family.licence for family in FAMILIES.values())
    held = [name for name, family in FAMILIES.items() if family.held]
    assert 6 <= len(held) <= len(FAMILIES) / 4


def test_a_letter_is_drawn_once_and_stands_on_the_line(fonts: Fonts):
    face = fonts.faces[0]
    glyph = face.glyph(20, "H")
    assert face.glyph(20, "H") is glyph
    assert glyph.mask is not None
    assert glyph.top + glyph.mask.height == 0  # from the line upwards
    assert face.glyph(20, " ").mask is None
    assert face.glyph(40, "H").advance > 1.5 * glyph.advance
