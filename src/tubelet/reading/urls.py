"""Addresses, for those who ask for them: http, https, s3 and hf, through fsspec. Nothing else of the library opens one.

    tubelet.read("https://example.org/page.png", urls=True)       the extra: pip install "tubelet[urls]"

What an address answers may change, redirect and be anyone's: it is decoded as bytes of a stranger are, in a process of
its own. A server that turns this on for addresses of its clients lets them name hosts that only it can reach.
"""

import re
import sys
from typing import Any

from tubelet.errors import InputError, near_names

SCHEMES = ("http", "https", "s3", "hf")
NEEDS = 'pip install "tubelet[urls]"'
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://\S")  # one letter is a Windows drive


def is_url(source: Any) -> bool:
    """Whether it is a text that begins as an address does; whether it can be opened is another question.

    >>> is_url("s3://bucket/page.png"), is_url("C:/page.png"), is_url("page.png")
    (True, False, False)
    """
    return isinstance(source, str) and _ADDRESS.match(source) is not None


def open_url(address: str) -> "UrlFile":
    """The file at an address, as a binary file object for `tubelet.read` and every function that takes one.

    Nothing is asked of the host before the first read; then pieces are, as they are needed, where the host gives
    pieces. Raises InputError for a scheme that is not one of SCHEMES, and where fsspec is missing.

        >>> open_url("ftp://host/page.png")
        Traceback (most recent call last):
        tubelet.errors.InputError: ftp://host/page.png: addresses are read by http, https, s3, hf
    """
    found = _ADDRESS.match(address)
    scheme = found[1].lower() if found else ""
    if scheme not in SCHEMES or "::" in address.partition("?")[0]:  # fsspec would take a chain of protocols
        near = near_names(scheme, SCHEMES)
        raise InputError(f"addresses are read by {', '.join(SCHEMES)}{near}", source=address[:200], expected=SCHEMES)
    try:
        import fsspec  # noqa: F401
    except ImportError as e:
        raise InputError(f"reading an address needs {NEEDS}", source=address[:200]) from e
    return UrlFile(address)


def _failures() -> tuple[type[Exception], ...]:
    """What hosts and their libraries fail with: aiohttp's errors, such as a status of 500, are no OSError."""
    aiohttp = sys.modules.get("aiohttp")
    return (OSError, ValueError) if aiohttp is None else (OSError, ValueError, aiohttp.ClientError)


class UrlFile:
    """An address as a file object, opened when it is first used."""

    def __init__(self, address: str) -> None:
        self.name = address
        self._opened: Any = None

    @property
    def _file(self) -> Any:
        if self._opened is None:
            import fsspec

            try:
                pointer: Any = fsspec.open(self.name, "rb")
                self._opened = pointer.open()
            except ImportError as e:  # the protocol's own library
                raise InputError(f"reading this address needs {NEEDS}") from e
            except _failures() as e:
                raise InputError(f"the address could not be opened: {type(e).__name__}") from e
        return self._opened

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._file.read(size)
        except _failures() as e:
            raise InputError(f"the address could not be read: {type(e).__name__}") from e

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
