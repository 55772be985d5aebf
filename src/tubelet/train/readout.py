"""One vector for each picture from the rows of all its views: what a loss between pictures and texts compares."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.pool import attention_pooled, segment_sum
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Item, Packed
from tubelet.reduce.blank import blank_rows, has_blank
from tubelet.reduce.groups import groups_of
from tubelet.shapes import Float


def pictures_as_items(p: Packed) -> Packed:
    """The rows of all views of a picture as one item, without places; rows that show nothing are left out.

    Raises ShapeError for a picture whose views do not follow each other, or with no row that shows something.
    Syncs where views have borders.
    """
    shown = p.keep(~blank_rows(p)) if has_blank(p) else p
    groups = groups_of(shown)
    if list(groups.of_item) != sorted(groups.of_item):
        raise ShapeError("the views of a picture must follow each other", got=groups.of_item)
    for group, size in enumerate(groups.sizes):
        if not size:
            raise ShapeError("no row of this picture shows anything", item=groups.of_item.index(group), got=0)
    items = tuple(Item.of(1, 1, size) for size in groups.sizes)
    return Packed(shown.x, torch.zeros_like(shown.pos), items, groups.sizes)


def mean_rows(p: Packed) -> Float[Tensor, "N D"]:
    """The mean of each picture's rows, in float32. Raises what `pictures_as_items` raises.

    >>> p = tubelet.pack([torch.tensor([[1.0], [3.0]])], [tubelet.Item.of(1, 1, 2)])
    >>> mean_rows(p).tolist()
    [[2.0]]
    """
    whole = pictures_as_items(p)
    lengths = whole.cu_seqlens.diff().long()
    return segment_sum(whole.x.float(), lengths) / lengths.unsqueeze(1)


class AttentionReadout(nn.Module):
    """A learned query over each picture's rows: Packed (T, D) -> (N, D), starting at the mean's values.

    The query starts at zero, so weights start equal, and the value path at the identity: before training this is
    `mean_rows`. Cost: 2 T D^2 FLOPs. Raises ConfigError for heads that do not divide the width.

        >>> p = tubelet.pack([torch.randn(6, 8)], [tubelet.Item.of(1, 2, 3)])
        >>> bool(torch.allclose(AttentionReadout(8, heads=2)(p), mean_rows(p), atol=1e-6))
        True
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"{heads} heads do not divide {width} channels", expected=width, got=heads)
        self.query = nn.Parameter(torch.zeros(heads, width // heads))
        self.key = nn.Parameter(torch.empty(width, width))
        self.value = nn.Parameter(torch.eye(width))
        nn.init.xavier_uniform_(self.key)

    def forward(self, p: Packed) -> Float[Tensor, "N D"]:
        whole = pictures_as_items(p)
        query = self.query.float() * self.query.shape[1] ** -0.5
        return attention_pooled(whole, query, self.key.float(), self.value.float(), None)


def mean_embeddings(table: Float[Tensor, "V D"], texts: list[list[int]]) -> Float[Tensor, "N D"]:
    """The mean of each text's token embeddings out of a language model's frozen table, in float32.

    The text side of a projector's alignment: the space its rows are placed into. Raises ShapeError for an empty text.

        >>> mean_embeddings(torch.eye(3), [[0, 1], [2]]).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    for i, ids in enumerate(texts):
        if not ids:
            raise ShapeError("a text has at least one token", item=i, limit=1, got=0)
    flat = torch.tensor([i for ids in texts for i in ids], dtype=torch.long, device=table.device)
    starts = torch.tensor([0, *(len(ids) for ids in texts)][:-1], dtype=torch.long, device=table.device).cumsum(0)
    return F.embedding_bag(flat, table.detach().float(), starts, mode="mean")
