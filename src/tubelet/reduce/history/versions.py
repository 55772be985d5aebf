"""The versions of SHIRG that were published, each by the commit that had it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Packed
from tubelet.packed.order import rows_by_place
from tubelet.reduce.groups import groups_of
from tubelet.reduce.history.fovea import METHODS, fovea, fovea2
from tubelet.reduce.history.parts import Chosen
from tubelet.reduce.history.scale import Modular, dual_scale, fixed, modular, shirg_x
from tubelet.reduce.history.v1 import v1
from tubelet.reduce.history.v2 import v1b, v2, v3
from tubelet.reduce.select import budgets_of
from tubelet.shapes import Float


@dataclass(frozen=True)
class Version:
    """One historical design. run(x (B, N, D), text (B, S, D) or None, budget=...) gives `Chosen`, batch couplings and
    all; budget: upstream's own; commits: of rkawamura0483/LaViDa_mod; faults: what is wrong with it."""

    run: Callable[..., Chosen]
    budget: int
    commits: tuple[str, ...]
    faults: tuple[str, ...]


_TOP_LEFT = "scores likeness to the upper left patch as attention, which favours background"


_UNIT = "reads unit-length states of a layer the projector was not trained on"


_NEAR = "a cosine between spaces that were not trained together says nothing"


_MASK = "masks a whole image or nothing; a masked image is chosen by ties"


_MODULAR: tuple[tuple[Modular, tuple[str, ...]], ...] = (
    ("9ab210f", ("tokens are smoothed where scores are large",)),
    ("3c07ec2", ("a bonus of 10 smooths the tokens it should protect",)),
    ("bd9a45f", ("the centre is at the left border", "a bonus of 10 smooths the tokens it should protect")),
    ("6911a60", ("the centre penalty is nearly all that is left without text",)),
    ("c864fb6", ("normalising over tokens makes weights depend on their number",)),
    ("cc2a828", ("text of another width is ignored, which is the usual case",)),
)


VERSIONS: dict[str, Version] = {
    "shirg-v1": Version(
        v1,
        729,
        ("fa9178b",),
        ("text of another width is compared by statistics", "late groups starve", "assumes 4 x 576 tokens above 3000"),
    ),
    "shirg-v1b": Version(v1b, 980, ("0330d4f",), ("variance and dot product are added on different scales", _NEAR)),
    "shirg-v2": Version(
        v2, 768, ("2743569",), ("coverage is spread over ranks, not places, and taken from the first image", _UNIT)
    ),
    "shirg-v2-views": Version(
        partial(v2, views="five"), 768, ("618581d", "9e6ac02"), ("four of five views are the same picture", _UNIT)
    ),
    "shirg-v2-summary": Version(
        partial(v2, summary="weighted"), 768, ("a1a6039",), ("as shirg-v2; the summary is near no token",)
    ),
    "shirg-v3": Version(
        v3, 768, ("a23daf3",), ("typical tokens score high", "another method for more than two images", _UNIT)
    ),
    "shirg-x": Version(shirg_x, 768, ("c1a3015",), ("coordinates of the wrong tokens", "variance counts against")),
    "shirg-x-merge": Version(
        partial(shirg_x, merge=True), 768, ("4b4e683",), ("looks merged tokens up by positions before merging",)
    ),
    "shirg-fixed": Version(fixed, 768, ("8dc798e",), ("dot product and variance are added on different scales", _UNIT)),
    "shirg-fixed-1152": Version(partial(fixed, region=8), 1152, ("34fb12b",), ("as shirg-fixed", "36 regions only")),
    "shirg-dual": Version(
        dual_scale, 1152, ("8de9585", "34fb12b"), ("the count is not fixed", "neighbour scores are not on one scale")
    ),
    **{
        f"shirg-modular-{commit}": Version(partial(modular, commit=commit), 1152, (commit,), faults)
        for commit, faults in _MODULAR
    },
    "shirg-fovea": Version(fovea, 460, ("05b260e",), (_TOP_LEFT,)),
    "shirg-fovea3": Version(partial(fovea, scale="range"), 392, ("ff3dcac",), (_TOP_LEFT,)),
    **{
        f"shirg-fovea2-{method}": Version(
            partial(fovea2, method=method),
            724,
            ("6447638", "fe0f76f"),
            (_TOP_LEFT, _MASK) if method in ("entropy", "full") else (_TOP_LEFT,),
        )
        for method in METHODS
    },
}


def historical(
    p: Packed,
    version: str,
    text: Float[Tensor, "S D"] | None = None,
    *,
    budget: int | None = None,
) -> Packed:
    """What a version of `VERSIONS` keeps of each item, each by itself: the rows it takes, unchanged, in raster order.

    Its summary and merged tokens are left out, because they have no place, and smoothing is not done;
    `VERSIONS[version].run` gives all that. None knew of black borders, so they may take a view's blank rows, unlike
    everything else here. budget: upstream's own if None. Computed on the CPU. Items must be whole and, but for shirg-v1
    and shirg-v1b, square pictures.
    Raises InputError for an unknown version or a budget that is none, ShapeError naming the item that does not fit.

        >>> p = tubelet.pack([torch.randn(256, 8)], [tubelet.Item.of(1, 16, 16)])
        >>> historical(p, "shirg-fixed", budget=64).lengths
        (64,)
    """
    if version not in VERSIONS:
        raise InputError(
            f"no version {version}; there are {', '.join(VERSIONS)}", expected=tuple(VERSIONS), got=version
        )
    wanted = VERSIONS[version]
    if budget is not None:
        budgets_of(groups_of(p), budget)
    by_place = rows_by_place(p)
    rows = [by_place[:0]]
    words = None if text is None else text.float().cpu()[None]
    for i, (start, end) in enumerate(zip(p.starts, p.starts[1:], strict=False)):
        own = by_place[start:end]
        try:
            found = wanted.run(p.x[own].float().cpu()[None], words, budget=wanted.budget if budget is None else budget)
        except (ShapeError, InputError) as e:
            raise e.placed(item=i) from None
        index = (found.index if found.place is None else found.place)[0]
        rows.append(own[index[index >= 0].unique().to(own.device)])
    return p.keep(torch.cat(rows))
