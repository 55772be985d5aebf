"""Keys of content and the cache: what must differ differs, what must not does not, and memory is bounded."""

import copy
import random
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tubelet import Grid, Item, Packed, pack
from tubelet.errors import ConfigError
from tubelet.language.vlm.cache import FeatureCache, content_key, item_key

PARTS = st.lists(st.one_of(st.text("ab0", max_size=3), st.binary(max_size=3), st.integers(0, 12)), max_size=4)


def flat(parts: list[str | bytes | int]) -> list[tuple[str, str | bytes | int]]:
    """What must decide the key: each part with its kind."""
    return [(type(part).__name__, part) for part in parts]


@given(PARTS, PARTS)
def test_keys_are_equal_exactly_where_the_parts_are(a: list[str | bytes | int], b: list[str | bytes | int]):
    assert (content_key(*a) == content_key(*b)) == (flat(a) == flat(b))


@given(st.binary(max_size=8), st.integers(0, 8))
def test_moving_a_border_is_another_key(data: bytes, at: int):
    """Concatenation never collides: the same bytes cut elsewhere are other content."""
    cut = min(at, len(data))
    whole, parts = content_key(data), content_key(data[:cut], data[cut:])
    assert whole != parts
    if cut + 1 <= len(data):
        assert parts != content_key(data[: cut + 1], data[cut + 1 :])


def test_a_part_cannot_pretend_to_be_two():
    """Not even one that holds another's prefix of kind and length."""
    inner = b"b" + (1).to_bytes(8, "little") + b"y"
    assert content_key(b"x" + inner) != content_key(b"x", b"y")
    assert content_key(b"x", inner) != content_key(b"x", b"", b"y")


def rows(seed: int = 0, n: int = 12, width: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_tensors_differ_by_type_shape_and_value():
    x = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    others = [x.reshape(4), x.reshape(1, 4), x.to(torch.int8), x.float(), x.T.contiguous(), x + 1, x[:1]]
    keys = {content_key(t) for t in (x, *others)}
    assert len(keys) == len(others) + 1
    assert content_key(x) == content_key(x.clone())
    assert content_key(x.T) == content_key(x.T.contiguous())
    assert content_key(torch.tensor([0.0])) != content_key(torch.tensor([-0.0]))


def one(item: Item, seed: int = 0) -> Packed:
    return pack([rows(seed, item.grid.rows)], [item])


def test_the_key_of_an_item_is_its_content_alone():
    """Not its number in the pack, its neighbours, its box or its times."""
    item = Item.of(1, 3, 4)
    alone = item_key(one(item), 0, "recipe", "options")
    two = pack([rows(7, 4), rows(0, 12)], [Item.of(1, 2, 2), Item(Grid(1, 3, 4), (2.5,), 1, (5.0, 6.0, 9.0, 9.0))])
    assert item_key(two, 1, "recipe", "options") == alone
    assert item_key(two, 0, "recipe", "options") != alone


def test_everything_that_decides_features_decides_the_key():
    base = one(Item.of(1, 3, 4))
    keys = [
        item_key(base, 0, "recipe", "options"),
        item_key(base, 0, "recip", "eoptions"),
        item_key(base, 0, "recipe", "options2"),
        item_key(base, 0, "recipe2", "options"),
        item_key(one(Item.of(1, 4, 3)), 0, "recipe", "options"),
        item_key(one(Item.of(2, 3, 2)), 0, "recipe", "options"),
        item_key(one(Item.of(1, 3, 4), seed=1), 0, "recipe", "options"),
        item_key(base.with_x(base.x.float()), 0, "recipe", "options"),
        item_key(base.keep(torch.arange(11)), 0, "recipe", "options"),
        item_key(base.keep(torch.arange(1, 12)), 0, "recipe", "options"),
        item_key(base.keep(torch.arange(11, -1, -1)), 0, "recipe", "options"),
    ]
    assert len(set(keys)) == len(keys)


# ---- the cache


def test_the_longest_unused_goes_first():
    cache = FeatureCache(limit_bytes=3 * (512 + 40))
    for name in "abc":
        cache.put(name, (torch.zeros(10),))
    assert cache.get("a") is not None
    cache.put("d", (torch.zeros(10),))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    assert (cache.counts.hits, cache.counts.misses, cache.counts.evicted) == (4, 1, 1)


def test_it_never_holds_more_than_its_limit():
    """Random puts of random sizes, keys met again with other sizes; what is larger than all is not kept."""
    rng = random.Random(5)
    cache = FeatureCache(limit_bytes=2000)
    sizes: dict[str, int] = {}
    for _ in range(500):
        key, n = str(rng.randrange(30)), rng.randrange(0, 400)
        cache.put(key, (torch.zeros(n), torch.zeros(2)))
        sizes[key] = 512 + 4 * n + 8
        there = [k for k in sizes if k in cache._kept]
        assert cache.bytes == sum(sizes[k] for k in there) <= 2000
        assert (key in there) == (sizes[key] <= 2000)
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_is_kept_is_a_copy_of_its_own():
    cache = FeatureCache()
    big = torch.zeros(100, requires_grad=True)
    cache.put("a", (big[:2],))
    found = cache.get("a")
    assert found is not None
    assert found[0].untyped_storage().nbytes() == 8
    assert not found[0].requires_grad


def test_a_cache_of_nothing_keeps_nothing():
    cache = FeatureCache(limit_bytes=0)
    cache.put("a", (torch.zeros(1),))
    assert cache.get("a") is None


def test_a_negative_limit_is_an_error():
    with pytest.raises(ConfigError, match="at least 0"):
        FeatureCache(limit_bytes=-1)


def test_entries_without_rows_are_bounded_too():
    cache = FeatureCache(limit_bytes=10_000)
    for i in range(1000):
        cache.put(str(i), (torch.zeros(0, 8),))
    assert 0 < len(cache) < 20
    assert cache.bytes <= 10_000


def test_a_copy_begins_empty():
    cache = FeatureCache(limit_bytes=5000)
    cache.put("a", (torch.zeros(10),))
    copied = copy.deepcopy(cache)
    assert (copied.limit_bytes, len(copied), copied.bytes) == (5000, 0, 0)
    copied.put("b", (torch.zeros(10),))
    assert len(cache) == len(copied) == 1


def test_threads_share_it():
    """Puts, looks and forgetting at once: what is kept and what is counted agree, and nothing is lost of a value."""
    cache = FeatureCache(limit_bytes=20 * (512 + 400))
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            n = rng.randrange(40)
            cache.put(str(n), (torch.full((100,), float(n)),))
            found = cache.get(str(n))
            if found is not None and not bool((found[0] == n).all()):
                wrong.append(n)
            if rng.random() < 0.01:
                cache.clear()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.bytes == len(cache) * (512 + 400) <= cache.limit_bytes
    assert cache.counts.hits + cache.counts.misses == 4 * 300
