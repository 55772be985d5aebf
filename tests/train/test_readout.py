"""One vector a picture, against loops over its rows."""

import pytest
import torch
import torch.nn.functional as F

import tubelet
from tubelet.errors import ConfigError, ShapeError
from tubelet.packed import Item, Packed
from tubelet.train.readout import AttentionReadout, mean_embeddings, mean_rows

TILE = Item(tubelet.Grid(1, 2, 2), (0.0,), 1, box=(0, -4, 8, 4), content=(0, 0, 8, 4))  # its upper row shows nothing


def two_pictures() -> Packed:
    torch.manual_seed(0)
    items = [Item.of(1, 2, 3), Item(tubelet.Grid(1, 1, 2), (0.0,), 1, (0, 0, 8, 4)), TILE]
    return tubelet.pack([torch.randn(i.grid.rows, 8) for i in items], items)


def test_the_mean_is_over_all_views_and_nothing_blank():
    p = two_pictures()
    a, b, c = p.unpack()
    torch.testing.assert_close(mean_rows(p), torch.stack([a.mean(0), torch.cat([b, c[2:]]).mean(0)]))


def test_attention_equals_a_loop_over_heads():
    p, pool = two_pictures(), AttentionReadout(8, heads=2)
    with torch.no_grad():
        for weight in pool.parameters():
            weight.normal_()
    a, b, c = p.unpack()
    for got, rows in zip(pool(p), (a, torch.cat([b, c[2:]])), strict=True):
        keys, values = (rows @ w.T for w in (pool.key, pool.value))
        heads = [
            F.softmax(k @ query / 2, dim=0) @ v
            for k, v, query in zip(keys.split(4, dim=1), values.split(4, dim=1), pool.query, strict=True)
        ]
        torch.testing.assert_close(got, torch.cat(heads), rtol=1e-5, atol=1e-5)


def test_all_weights_of_attention_learn():
    pool = AttentionReadout(8, heads=2)
    optimizer = torch.optim.SGD(pool.parameters(), lr=0.1)
    for _ in range(2):  # the key's gradient is zero while the query is
        pool.zero_grad()
        pool(two_pictures()).square().sum().backward()
        optimizer.step()
    assert all(w.grad is not None and bool(w.grad.any()) for w in pool.parameters())


def test_what_cannot_be_pooled_is_refused():
    p = two_pictures()
    with pytest.raises(ShapeError, match="follow"):
        mean_rows(p.reorder([1, 0, 2]))
    with pytest.raises(ShapeError, match="no row") as caught:
        mean_rows(p.keep(torch.arange(6)))
    assert caught.value.item == 1
    with pytest.raises(ConfigError):
        AttentionReadout(8, heads=3)
    with pytest.raises(ShapeError):
        mean_embeddings(torch.eye(3), [[1], []])
