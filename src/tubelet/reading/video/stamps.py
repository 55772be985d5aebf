"""Presentation times that cannot be true, by the order of decoding.

Only what a picture refers to must be decoded before it, so pictures may be shown in another order. Some may not: all
that was decoded before a *firm* picture is shown before it. Key pictures are firm, in the MPEG family all but B.

    decoded    I0   P3   B1   B2   P6   B4   B5   I9        firm: I P P I
    damaged    I99  P3   B1   B2   P6   ...                 three firm ones come before I99: it is the wrong one
"""

from collections.abc import Mapping, Sequence
from typing import Final

_MOST_LEADING: Final = 32  # pictures that an open group of pictures begins with, at most


def misplaced(shown: Sequence[int], clock: Mapping[int, int], firm: Sequence[bool]) -> set[int]:
    """The packets whose times contradict the order of decoding: as few as explain it.

    shown: packet numbers in decode order; clock: the time of each; firm: of every packet. Cost: linear.
    """
    late: list[int] = []  # shown after a firm picture that was decoded later
    lowest: int | None = None
    for i in reversed(shown):
        if lowest is not None and clock[i] > lowest:
            late.append(i)
        if firm[i]:
            lowest = clock[i] if lowest is None else min(lowest, clock[i])
    early: list[int] = []  # firm, and shown before a picture that was decoded earlier
    highest: int | None = None
    for i in shown:
        if firm[i] and highest is not None and clock[i] < highest:
            early.append(i)
        highest = clock[i] if highest is None else max(highest, clock[i])
    return set(min(late, early, key=len))


def leading(shown: Sequence[int], clock: Mapping[int, int], first: int) -> tuple[set[int], bool]:
    """(packets that are shown before the first one decoded, whether their times can be true).

    first: the packet that decoding starts at; where it is not shown, or its time is wrong, none is before it.
    True ones refer to a group of pictures that this file does not have: few, right behind the first, not all there is.
    """
    if not shown or shown[0] != first:
        return set(), True
    before = {i for i in shown if clock[i] < clock[first]}
    few = len(before) <= min(_MOST_LEADING, len(shown) - 2)
    true = not before or (few and before == set(shown[1 : 1 + len(before)]))
    return ({first}, False) if not true and 2 * len(before) > len(shown) else (before, true)
