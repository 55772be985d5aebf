"""The numbers a choice of rows is compared by, together."""

from tubelet.inspect.metrics.boxes import Boxes, recall, relevance_over_random
from tubelet.inspect.metrics.estimate import Estimate
from tubelet.inspect.metrics.features import reconstruction
from tubelet.inspect.metrics.places import PARTS, coherence, concentration, coverage, distance
from tubelet.packed import Packed


def summary(
    whole: Packed, kept: Packed, boxes: Boxes | None = None, *, parts: int = PARTS, seed: int = 0
) -> dict[str, Estimate]:
    """coverage, distance, concentration, coherence and rebuilt (ridge); with boxes also in_boxes and over_random.

    >>> p = tubelet.pack([torch.randn(64, 4)], [tubelet.Item.of(1, 8, 8)])
    >>> list(summary(p, p.keep(torch.arange(8))))
    ['coverage', 'distance', 'concentration', 'coherence', 'rebuilt']
    """
    found = {
        "coverage": coverage(whole, kept, parts=parts, seed=seed),
        "distance": distance(whole, kept, seed=seed).mean,
        "concentration": concentration(whole, kept, parts=parts, seed=seed),
        "coherence": coherence(whole, kept, seed=seed),
        "rebuilt": reconstruction(whole, kept, seed=seed),
    }
    if boxes:
        found["in_boxes"] = recall(whole, kept, boxes, seed=seed).share
        found["over_random"] = relevance_over_random(whole, kept, boxes, seed=seed)
    return found
