"""Fonts to print pages with: those of the families below that the system has. None is shipped.

Every family comes in a Debian package; its licence binds the font file and not what is printed with it. One family in
eight is held out: pages to measure with are printed in faces the model has not seen.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tubelet.errors import InputError

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/usr/share/texmf/fonts/opentype", "~/.local/share/fonts")
TEXT = "".join(map(chr, range(33, 127)))  # what every face must hold; currency signs are asked of each face
FEWEST = 4  # families of each side below which a model would learn the faces and not the letters
_MISSING = "\U0010fffe"  # a code point no font has: what is drawn for it stands for all that is missing


class Family(NamedTuple):
    """Where a family comes from. held: kept for pages to measure with."""

    package: str
    licence: str
    held: bool = False


FAMILIES = {
    "Andika": Family("fonts-sil-andika", "OFL-1.1"),
    "Arimo": Family("fonts-croscore", "Apache-2.0"),
    "B612": Family("fonts-b612", "OFL-1.1"),
    "B612 Mono": Family("fonts-b612", "OFL-1.1"),
    "Cabin": Family("fonts-cabin", "OFL-1.1", held=True),
    "Caladea": Family("fonts-crosextra-caladea", "Apache-2.0", held=True),
    "Cantarell": Family("fonts-cantarell", "OFL-1.1"),
    "Carlito": Family("fonts-crosextra-carlito", "OFL-1.1"),
    "Charis SIL": Family("fonts-sil-charis", "OFL-1.1"),
    "Comfortaa": Family("fonts-comfortaa", "OFL-1.1"),
    "Courier Prime": Family("fonts-courier-prime", "OFL-1.1"),
    "Courier Prime Sans": Family("fonts-courier-prime", "OFL-1.1"),
    "Cousine": Family("fonts-croscore", "Apache-2.0"),
    "DejaVu Sans": Family("fonts-dejavu-core", "Bitstream Vera"),
    "DejaVu Sans Mono": Family("fonts-dejavu-core", "Bitstream Vera"),
    "DejaVu Serif": Family("fonts-dejavu-core", "Bitstream Vera"),
    "Dosis": Family("fonts-dosis", "OFL-1.1"),
    "EB Garamond": Family("fonts-ebgaramond", "OFL-1.1"),
    "Fira Code": Family("fonts-firacode", "OFL-1.1"),
    "GFS Didot": Family("fonts-gfs-didot", "OFL-1.1"),
    "Gentium": Family("fonts-sil-gentium", "OFL-1.1"),
    "Go": Family("fonts-go", "BSD-3-Clause"),
    "Go Mono": Family("fonts-go", "BSD-3-Clause"),
    "Hack": Family("fonts-hack", "MIT and Bitstream Vera"),
    "Inconsolata": Family("fonts-inconsolata", "OFL-1.1"),
    "Inter": Family("fonts-inter", "OFL-1.1", held=True),
    "Inter Display": Family("fonts-inter", "OFL-1.1", held=True),
    "JetBrains Mono": Family("fonts-jetbrains-mono", "OFL-1.1", held=True),
    "Junction": Family("fonts-junction", "OFL-1.1"),
    "Karla": Family("fonts-karla", "OFL-1.1"),
    "Lato": Family("fonts-lato", "OFL-1.1", held=True),
    "League Spartan": Family("fonts-league-spartan", "OFL-1.1"),
    "Liberation Mono": Family("fonts-liberation2", "OFL-1.1"),
    "Liberation Sans": Family("fonts-liberation2", "OFL-1.1"),
    "Liberation Serif": Family("fonts-liberation2", "OFL-1.1"),
    "Linux Biolinum O": Family("fonts-linuxlibertine", "OFL-1.1"),
    "Linux Libertine O": Family("fonts-linuxlibertine", "OFL-1.1"),
    "Manrope": Family("fonts-manrope", "OFL-1.1"),
    "Noto Sans": Family("fonts-noto-core", "OFL-1.1"),
    "Noto Sans Display": Family("fonts-noto-core", "OFL-1.1"),
    "Noto Sans Mono": Family("fonts-noto-core", "OFL-1.1"),
    "Noto Serif": Family("fonts-noto-core", "OFL-1.1"),
    "Noto Serif Display": Family("fonts-noto-core", "OFL-1.1"),
    "Open Sans": Family("fonts-open-sans", "Apache-2.0"),
    "Oxygen Mono": Family("fonts-oxygen", "OFL-1.1", held=True),
    "Oxygen-Sans": Family("fonts-oxygen", "OFL-1.1", held=True),
    "PT Mono": Family("fonts-paratype", "OFL-1.1"),
    "PT Sans": Family("fonts-paratype", "OFL-1.1"),
    "PT Sans Caption": Family("fonts-paratype", "OFL-1.1"),
    "PT Sans Narrow": Family("fonts-paratype", "OFL-1.1"),
    "PT Serif": Family("fonts-paratype", "OFL-1.1"),
    "Play": Family("fonts-play", "OFL-1.1"),
    "Quicksand": Family("fonts-quicksand", "OFL-1.1"),
    "Quicksand Medium": Family("fonts-quicksand", "OFL-1.1"),
    "Roboto": Family("fonts-roboto-unhinted", "Apache-2.0"),
    "Roboto Condensed": Family("fonts-roboto-unhinted", "Apache-2.0"),
    "Roboto Slab": Family("fonts-roboto-slab", "Apache-2.0"),
    "TeX Gyre Adventor": Family("fonts-texgyre", "GUST"),
    "TeX Gyre Cursor": Family("fonts-texgyre", "GUST"),
    "TeX Gyre Heros": Family("fonts-texgyre", "GUST"),
    "TeX Gyre Pagella": Family("fonts-texgyre", "GUST", held=True),
    "TeX Gyre Schola": Family("fonts-texgyre", "GUST"),
    "TeX Gyre Termes": Family("fonts-texgyre", "GUST"),
    "Tinos": Family("fonts-croscore", "Apache-2.0"),
    "Tuffy": Family("fonts-tuffy", "public domain"),
    "Vollkorn": Family("fonts-vollkorn", "OFL-1.1", held=True),
    "mononoki": Family("fonts-mononoki", "OFL-1.1"),
}
TOO_FAINT = ("hairline", "thin")  # strokes of less than a pixel at the sizes in question


class Glyph(NamedTuple):
    """One letter at one size. left, top: of the mask from the pen, y downwards; mask: None where nothing is inked."""

    mask: Image.Image | None
    left: int
    top: int
    advance: float


@dataclass(frozen=True)
class Face:
    """One font file. lacks: characters asked for that it does not hold; sha256: of the file."""

    family: str
    style: str
    path: Path = field(compare=False)
    sha256: str
    lacks: frozenset[str] = frozenset()

    @property
    def bold(self) -> bool:
        """Whether the style's name says so."""
        return any(word in self.style.lower() for word in ("bold", "black", "heavy"))

    def glyph(self, size: int, letter: str) -> Glyph:
        """The letter at `size` pixels to the em, drawn once."""
        drawn = _drawn(self.sha256, size)
        found = drawn.get(letter)
        if found is None:
            found = drawn[letter] = _draw(_font(self.path, size), letter)
        return found


@dataclass(frozen=True)
class Fonts:
    """Faces by family, those to train with and those held out. sha256 names the whole choice."""

    faces: tuple[Face, ...]

    def families(self, held: bool) -> tuple[tuple[Face, ...], ...]:
        """The faces of each family on one side, in the order of their names."""
        return _by_family(self, held)

    @property
    def sha256(self) -> str:
        """Of the families, styles and files: two lists that draw alike have the same."""
        told = "\n".join(f"{f.family}\t{f.style}\t{f.sha256}" for f in self.faces)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def packages(self) -> tuple[str, ...]:
        """The Debian packages the faces come from."""
        return tuple(sorted({FAMILIES[f.family].package for f in self.faces if f.family in FAMILIES}))


def find_fonts(folders: Sequence[str | Path] = FOLDERS, *, currency: str = "€£") -> Fonts:
    """The faces of known families below `folders`, each look once, in the order of family, style and file hash.

    A face is left out where it lacks a printable ASCII character or is too faint; of `currency` it may lack some, and
    says so. Cost: every file is read once, about 2 s for 300 faces. Raises InputError naming the packages where fewer
    than four families are found on either side.
    """
    faces: dict[str, Face] = {}
    for folder in folders:
        for path in sorted(Path(folder).expanduser().rglob("*")):
            if path.suffix.lower() in (".ttf", ".otf") and (face := _face(path, currency)) is not None:
                faces.setdefault(face[0], face[1])
    found = Fonts(tuple(sorted(faces.values(), key=lambda f: (f.family, f.style, f.sha256))))
    counts = tuple(len(found.families(held)) for held in (False, True))
    if min(counts) < FEWEST:
        packages = sorted({family.package for family in FAMILIES.values()})
        raise InputError(
            f"{counts[0]} font families to train with and {counts[1]} held out were found; pages need {FEWEST} of each."
            f" On Debian or Ubuntu: apt-get install --no-install-recommends {' '.join(packages)}",
            expected=FEWEST,
            got=counts,
        )
    return found


# ---- the steps


@lru_cache(maxsize=8)
def _by_family(fonts: Fonts, held: bool) -> tuple[tuple[Face, ...], ...]:
    families: dict[str, list[Face]] = {}
    for face in fonts.faces:
        if (face.family in FAMILIES and FAMILIES[face.family].held) == held:
            families.setdefault(face.family, []).append(face)
    return tuple(tuple(faces) for faces in families.values())


def _face(path: Path, currency: str) -> tuple[str, Face] | None:
    """A hash of how the face looks, and the face; None where it is not to be used."""
    try:
        font = ImageFont.truetype(str(path), 20, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None  # not a font FreeType reads: other people's folders hold such files
    family, style = font.getname()
    if family not in FAMILIES or any(word in str(style).lower() for word in TOO_FAINT):
        return None
    missing = _look(font, _MISSING)
    looks = {letter: _look(font, letter) for letter in TEXT + currency}
    if any(looks[letter] == missing for letter in TEXT):
        return None
    lacks = frozenset(letter for letter in currency if looks[letter] == missing)
    look = hashlib.sha256(b"".join(looks.values())).hexdigest()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return look, Face(str(family), str(style), path, digest, lacks)


def _look(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    glyph = _draw(font, letter)
    return b"" if glyph.mask is None else glyph.mask.tobytes()


@lru_cache(maxsize=4096)
def _drawn(sha256: str, size: int) -> dict[str, Glyph]:
    """The letters of one file at one size that have been drawn: about 30 kB when all have."""
    return {}


@lru_cache(maxsize=64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """An open font; few, because each holds its file open."""
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _draw(font: ImageFont.FreeTypeFont, letter: str) -> Glyph:
    left, top, right, bottom = map(int, font.getbbox(letter, anchor="ls"))
    advance = font.getlength(letter)
    if right <= left or bottom <= top:
        return Glyph(None, 0, 0, advance)
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), letter, font=font, fill=255, anchor="ls")
    return Glyph(mask, left, top, advance)
