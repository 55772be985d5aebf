"""The format of an input from its first bytes, before any decoder sees it.

A name or a declared media type is never asked: what the bytes do not prove is refused.
"""

import re
from typing import Literal

from tubelet.errors import UnsupportedFormat

# TEXT is no file's: a chat template on its way to the decoding process
Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MP4", "MKV", "WEBM", "AVI", "TEXT"]

PICTURES: frozenset[Format] = frozenset(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"))
VIDEOS: frozenset[Format] = frozenset(("MP4", "MKV", "WEBM", "AVI"))
HEAD_BYTES = 64  # what `sniff` may look at

_PLAIN: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0\x08\0", "TIFF"),  # BigTIFF: offsets of eight bytes
    (b"MM\0+\0\x08", "TIFF"),
)

_BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))  # sizes a bitmap information header can have
_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 mif2 msf1 miaf".split())

# What a refused file most likely is, so that the message helps. First match wins.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript or EPS file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file with a preview"),
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x7fELF", "an ELF program"),
    (b"MZ", "a Windows program"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\0\0\1\0", "an icon file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"DDS ", "a DDS texture"),
    (b"qoif", "a QOI picture"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "a FLAC sound"),
    (b"ID3", "an MP3 sound"),
    (b"FLV\x01", "a Flash video"),
    (b"\0\0\1\xba", "an MPEG program stream"),
    (b"\0\0\1\xb3", "an MPEG video stream"),
    (b"\0\0\0\1", "a bare H.264 or H.265 stream"),
    (b"\x30\x26\xb2\x75", "a Windows Media file"),
)
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (b"#extm3u", "an M3U8 playlist"),
    (b"ffconcat", "an FFmpeg concat script"),
    (b"<mpd", "a DASH manifest"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype svg", "an SVG drawing"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document (SVG, DASH or other)"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for"),
)


def sniff(head: bytes) -> Format:
    """The format that the first bytes of a file prove; at most 64 of them are looked at.

    Cost: none to speak of; no decoder is involved.
    Raises: UnsupportedFormat for anything else, and says what the bytes look like.
    Source: the signatures of the formats' own specifications (JPEG T.81, PNG 5.2, RFC 9649, GIF89a 17, TIFF 6.0,
    ISO/IEC 14496-12 4.3, AVIF 1.1 section 6, RFC 8794 11.2.4, RIFF AVI).

    >>> sniff(b"GIF89a" + bytes(58))
    'GIF'
    """
    head = head[:HEAD_BYTES]
    for magic, name in _PLAIN:
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"AVI "):
        return "WEBP" if head[8:12] == b"WEBP" else "AVI"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    found = _iso_media(head) or _ebml(head)
    if found is not None:
        return found
    raise _refusal(looks_like(head))


def looks_like(head: bytes) -> str:
    """In words, what the first bytes of a file we do not read are: "a PDF document", "text", "empty"."""
    head = head[:HEAD_BYTES]
    if not head:
        return "empty"
    for magic, words in _OTHERS:
        if head.startswith(magic):
            return words
    if head.startswith(b"RIFF"):
        return "a WAVE sound" if head[8:12] == b"WAVE" else "a RIFF file of another kind"
    if head[4:8] == b"ftyp":
        return "a HEIF picture" if head[8:12] in _HEIF_BRANDS else "a raw camera file"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "an EBML file of another kind"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, words in _TEXTS:
        if text.startswith(magic):
            return words
    if re.fullmatch(rb"[\t\n\r\f\x20-\x7e\x80-\xff]*[\t\n\r\x20-\x7e][\t\n\r\f\x20-\x7e\x80-\xff]*", head):
        return "text" if len(head) > 1 else "a single byte"
    return "of no known kind" if len(head) > 1 else "a single byte"


def _refusal(what: str) -> UnsupportedFormat:
    known = "JPEG PNG WEBP GIF BMP TIFF AVIF MP4/MOV MKV WEBM AVI"
    return UnsupportedFormat(f"the content is {what}; formats that are read: {known}", expected=known, got=what)


def _iso_media(head: bytes) -> Format | None:
    """MP4 or AVIF by the brands of the `ftyp` box; QuickTime files older than that box by their first atom."""
    size, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if kind == b"ftyp" and size >= 16 and len(head) >= 16:
        major = head[8:12]
        compatible = {head[i : i + 4] for i in range(16, min(size, len(head)) - 3, 4)}
        if major in (b"avif", b"avis"):
            return "AVIF"
        if major in _HEIF_BRANDS:
            return "AVIF" if compatible & {b"avif", b"avis"} else None
        return None if major == b"crx " else "MP4"
    if kind in (b"moov", b"mdat", b"wide", b"free", b"skip") and (size == 1 or 8 <= size < 1 << 31):
        plausible = kind in (b"moov", b"mdat") or size < 1 << 24  # "get free..." is a sentence, not an atom
        return "MP4" if plausible else None
    return None


def _ebml(head: bytes) -> Format | None:
    """MKV or WEBM by the DocType element (0x4282) of the EBML header."""
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    found = re.search(rb"\x42\x82.{0,7}?(matroska|webm)", head, re.DOTALL)
    if found is None:
        return None
    return "MKV" if found[1] == b"matroska" else "WEBM"
