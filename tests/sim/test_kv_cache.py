"""The KV cache by counts equals a free list of block objects, as vLLM has it."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from inframind.sim.kv_cache import KVCache
from inframind.sim.request import Request


def test_block_zero_is_not_for_use() -> None:
    assert KVCache(10, 16).num_free == 9


def test_unhashed_blocks_go_first_then_the_least_recently_freed() -> None:
    """Of 4 blocks two are freed with a hash (tail first): three more are taken, and the end of the prefix goes."""
    cache = KVCache(5, 16)
    cache.take(2)
    blocks = [cache.cache("start"), cache.cache("end")]
    cache.free(0, blocks)

    cache.take(3)

    assert [block.key for block in cache.longest_hit(["start", "end"])] == ["start"]
    assert cache.num_free == 1


def test_a_hit_block_leaves_the_free_list() -> None:
    cache = KVCache(3, 16)
    cache.take(1)
    cache.free(0, [cache.cache("a")])
    assert cache.num_free == 2

    hit = cache.longest_hit(["a"])
    cache.touch(hit)
    assert cache.num_free == 1
    cache.touch(hit)
    assert cache.num_free == 1


def test_a_warm_but_idle_cache_is_not_in_use() -> None:
    cache = KVCache(11, 16)
    cache.take(5)
    blocks = [cache.cache(i) for i in range(5)]
    assert cache.usage == 0.5

    cache.free(0, blocks)
    assert cache.usage == 0.0


class FreeList:
    """vLLM's own structure: one deque of blocks, some with a key."""

    def __init__(self, num_blocks: int) -> None:
        self.free: deque[list[str | None]] = deque([None] for _ in range(num_blocks - 1))

    def take(self, num: int) -> list[list[str | None]]:
        taken = [self.free.popleft() for _ in range(num)]
        for block in taken:
            block[0] = None
        return taken

    def give_back(self, blocks: list[list[str | None]]) -> None:
        backwards = blocks[::-1]
        self.free.extendleft([block for block in backwards if block[0] is None][::-1])
        self.free.extend([block for block in backwards if block[0] is not None])


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=40))
def test_counts_equal_a_real_free_list(holders: list[tuple[int, int]]) -> None:
    """Holders take blocks, hash some of the first, and give all back: the same keys stay findable."""
    cache, model = KVCache(8, 16), FreeList(8)
    for index, (num, hashed) in enumerate(holders):
        cache.take(num)
        blocks = model.take(num)
        keys = [f"{index}/{i}" for i in range(min(num, hashed))]
        cached = [cache.cache(key) for key in keys]
        for block, key in zip(blocks, keys, strict=False):
            block[0] = key
        cache.free(num - len(keys), cached)
        model.give_back(blocks)

        assert cache.num_free == len(model.free) == 7
        for key in keys:
            assert bool(cache.longest_hit([key])) == any(block[0] == key for block in model.free)


def test_block_keys_name_shared_segments_then_the_request() -> None:
    """Segments end at 20 and 40 tokens, blocks hold 16: a block is named by the segment of its last token, and one
    that reaches beyond the last segment by the request."""
    request = Request("r", 0, 60, 10, prefix=(("system", 20), ("query", 40)))

    assert list(request.block_keys(16, 0, 4)) == [("system", 0), ("query", 1), ("r", 2), ("r", 3)]
    assert list(request.block_keys(16, 1, 3)) == [("query", 1), ("r", 2)]
