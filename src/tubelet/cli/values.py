"""Words of the command line made into values: sizes, bytes, view rules; and names of models looked at."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from tubelet.cli.terminal import UsageError
from tubelet.errors import ConfigError, near_names

if TYPE_CHECKING:
    from tubelet.pixels.views import Views
    from tubelet.pixels.views_plan import Joining, Pool


UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def view_rule(text: str | None, pool: str | None, join: str | None) -> "Views | None":
    """The rule that --views, --pool and --join give, canvases written (width, height) as sizes are. Raises UsageError.

        lavida                     LaViDa's
        384:768x384,384x768        tiles of 384 that fill the best of these canvases
        pyramid:672/336,672/672    the whole picture at 672, in tiles of 336, and as one view; +squash loses its ratio
        page:384/0.1               crops of 384 along a page that overlap by a tenth at least; page:384/0.1/8: at most 8

    >>> view_rule("384:768x384,384x768", "bilinear", None).pinpoints
    ((384, 768), (768, 384))
    >>> view_rule("page:384/0.1", None, None)
    PageCrops(tile=384, overlap=0.1, most=12, whole=True)
    """
    from tubelet.pixels.views import LAVIDA, ViewRule

    if text is None:
        if pool is not None or join is not None:
            raise UsageError("--pool and --join belong to --views")
        return None
    rule = LAVIDA if text == "lavida" else _named_rule(text)
    if not isinstance(rule, ViewRule):
        if pool is not None or join is not None:
            raise UsageError(f"--pool and --join are for tiles of one canvas, not for {text}")
        return rule
    if pool is not None:
        rule = replace(rule, pool=None if pool == "none" else cast("Pool", pool))
    return rule if join is None else replace(rule, join=cast("Joining", join))


def _named_rule(text: str) -> "Views":
    from tubelet.pixels.views import PageCrops, Pyramid, ViewRule

    number = "[0-9]{1,6}"
    kinds = {
        rf"(?P<tile>{number}):(?P<sides>{number}x{number}(,{number}x{number})*)": lambda m: ViewRule(
            int(m["tile"]), tuple((h, w) for w, h in _pairs(m["sides"], "x"))
        ),
        rf"pyramid:(?P<sides>{number}/{number}(,{number}/{number})*)(?P<squash>\+squash)?": lambda m: Pyramid(
            _pairs(m["sides"], "/"), "squash" if m["squash"] else "keep"
        ),
        rf"page:(?P<tile>{number})(/(?P<overlap>0?\.?[0-9]{{1,6}}))?(/(?P<most>{number}))?": lambda m: PageCrops(
            int(m["tile"]), float(m["overlap"] or 0), int(m["most"] or PageCrops.most)
        ),
    }
    for pattern, make in kinds.items():
        if found := re.fullmatch(pattern, text):
            try:
                return make(found)
            except ConfigError as e:
                raise UsageError(f"--views {text}: {e}") from e
    raise UsageError(
        "--views takes lavida, TILE:WxH,... such as 384:768x384,384x768, pyramid:SIDE/TILE,... such as "
        f"pyramid:672/336,672/672, or page:TILE/OVERLAP such as page:384/0.1, got {text!r}"
    )


def _pairs(text: str, between: str) -> tuple[tuple[int, int], ...]:
    pairs = (part.split(between) for part in text.split(","))
    return tuple((int(a), int(b)) for a, b in pairs)


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """(width, height, frames) of each size. Raises UsageError.

    >>> parse_sizes("1920x1080,640x360x16")
    [(1920, 1080, 1), (640, 360, 16)]
    """
    found: list[tuple[int, int, int]] = []
    for part in text.split(","):
        if not re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}(x[0-9]{1,9})?", part.strip()):
            raise UsageError(f"--size takes WIDTHxHEIGHT or WIDTHxHEIGHTxFRAMES, got {part!r}")
        width, height, *frames = (int(n) for n in part.strip().split("x"))
        found.append((width, height, frames[0] if frames else 1))
    return found


def parse_bytes(text: str, option: str = "--fit-memory") -> int:
    """Bytes of "24GiB", "500MB" or "1000000B". Raises UsageError that names the option, also where no unit is given.

    >>> parse_bytes("24GiB")
    25769803776
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(?:([KMG]I?)B?|B)", text.strip().upper())
    if found is None or not float(found[1]) > 0:
        raise UsageError(f"{option} takes a number above 0 with its unit, such as 24GiB, got {text!r}")
    return int(float(found[1]) * UNITS[found[2] or ""])


@dataclass(frozen=True)
class TokenBudget:
    """Tokens to keep: a number of them, or a share of what there is."""

    number: int | None  # of tokens
    percent: float | None = None  # or of a hundred

    def of(self, tokens: int) -> int:
        """How many that is of so many: at least one.

        >>> TokenBudget(None, 10.0).of(805), TokenBudget(64).of(805)
        (80, 64)
        """
        if self.number is not None:
            return self.number
        return max(1, int(tokens * (self.percent or 0) / 100))

    @property
    def plain(self) -> int | str:
        """As JSON has it: the number, or the share as it was written."""
        return str(self) if self.number is None else self.number

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.number is None else f"{self.number:,}"


def parse_budget(text: str) -> TokenBudget:
    """The budget that "64" or "10%" gives. Raises UsageError.

    >>> str(parse_budget("10%")), parse_budget("64").number
    ('10%', 64)
    """
    found = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", text.strip())
    if found is not None and found[1] is not None and int(found[1]) > 0:
        return TokenBudget(int(found[1]))
    if found is not None and found[2] is not None and 0 < float(found[2]) <= 100:
        return TokenBudget(None, float(found[2]))
    raise UsageError(f"--budget is a number of tokens from 1, or a share such as 10%, got {text!r}")


def parse_most_bad(text: str, files: int) -> int:
    """How many bad files "5" or "1%" of so many allow. Raises UsageError.

    >>> parse_most_bad("1%", 250), parse_most_bad("5", 250), parse_most_bad("100%", 250)
    (2, 5, 250)
    """
    found = re.fullmatch(r"([0-9]{1,12})|([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%", text.strip())
    if found is None or (found[2] is not None and float(found[2]) > 100):
        raise UsageError(f"--max-bad is a number of files, or a share such as 1%, got {text!r}")
    return int(found[1]) if found[1] is not None else int(files * float(found[2]) / 100)


def require_named(name: str) -> None:
    """Raises UsageError for a name that can be neither a folder, a file nor a hub id."""
    from tubelet.families.catalogue import variants
    from tubelet.weights.locate import BUILT_IN, is_here

    if "/" not in name and "\\" not in name and not is_here(name):
        near = near_names(name, (*variants(), *BUILT_IN))
        raise UsageError(f"--model {name}: no such variant, folder or file{near}; tubelet models lists the variants")
