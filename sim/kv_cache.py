"""vLLM's paged KV cache, as counts and an LRU order instead of block ids.

vLLM keeps one free list (``vllm/v1/core/block_pool.py``, 0.32.0). Freed blocks without a hash go to its front, freed
blocks with a hash to its tail, and new blocks are taken from the front. So the list is always *unhashed blocks, then
hashed blocks, least recently freed first*. Unhashed blocks are interchangeable: a count is enough. Hashed blocks need
an identity only for as long as they can be hit.
"""

from collections.abc import Hashable, Iterable, Sequence


class Block:
    """One hashed (prefix-cached) block; ``key`` stands for the hash of its tokens and of all tokens before them."""

    __slots__ = ("key", "ref_cnt")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.ref_cnt = 1


class KVCache:
    """The blocks of one server.

    Parameters
    ----------
    num_blocks
        vLLM's ``num_gpu_blocks``. Block 0 is the null block, so one fewer is usable.
    block_size
        Tokens per block.
    """

    __slots__ = ("_cached", "_lru", "block_size", "num_blocks", "num_free")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_free = num_blocks - 1
        """Blocks that can be taken, cached but unreferenced ones included."""
        self._lru: dict[Block, None] = {}
        self._cached: dict[Hashable, list[Block]] = {}

    @property
    def usage(self) -> float:
        """Share of the usable blocks that are held (``BlockPool.get_usage``); 0 for a warm but idle cache."""
        return 1.0 - self.num_free / (self.num_blocks - 1)

    def take(self, num_blocks: int) -> None:
        """Take blocks from the front of the free list, unhashed ones first; a hashed one loses its hash.

        The caller has checked that ``num_blocks <= num_free``.
        """
        self.num_free -= num_blocks
        lru = self._lru
        while len(lru) > self.num_free:
            block = next(iter(lru))
            del lru[block]
            copies = self._cached[block.key]
            copies.remove(block)
            if not copies:
                del self._cached[block.key]

    def longest_hit(self, keys: Iterable[Hashable]) -> list[Block]:
        """The longest run of cached blocks from the start (``FullAttentionManager.find_longest_cache_hit``)."""
        hit: list[Block] = []
        for key in keys:
            copies = self._cached.get(key)
            if copies is None:
                break
            hit.append(copies[0])
        return hit

    def touch(self, blocks: Sequence[Block]) -> None:
        """Take hit blocks: they leave the free list if nobody held them (``BlockPool.touch``)."""
        for block in blocks:
            if block.ref_cnt == 0:
                del self._lru[block]
                self.num_free -= 1
            block.ref_cnt += 1

    def cache(self, key: Hashable) -> Block:
        """Give a hash to one block that its request already holds: from now on it can be hit.

        vLLM does not de-duplicate: a second block with the same content is a second copy (``BlockHashToBlockMap``).
        """
        block = Block(key)
        self._cached.setdefault(key, []).append(block)
        return block

    def free(self, num_unhashed: int, hashed: Sequence[Block]) -> None:
        """Give back a request's blocks, tail first, so that the end of a prefix is evicted before its start."""
        self.num_free += num_unhashed
        for block in reversed(hashed):
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self._lru[block] = None
                self.num_free += 1
