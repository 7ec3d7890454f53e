"""The LLMs of the shipped pools, and what their shapes say about memory and work."""

from __future__ import annotations

from dataclasses import dataclass

_BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder-only transformer with gated MLPs (Llama, Mistral, Qwen2), from its public ``config.json``."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    qkv_bias: bool = False
    """Qwen2 has biases on the query, key and value projections."""
    tied_embeddings: bool = False
    """The output layer is the embedding, stored once."""

    @property
    def layer_parameters(self) -> int:
        """Weights of all layers: each token is multiplied with each of them."""
        query, key_value = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = 2 * self.hidden * query + 2 * self.hidden * key_value
        biases = query + 2 * key_value if self.qkv_bias else 0
        norms = 2 * self.hidden
        return self.num_layers * (attention + biases + 3 * self.hidden * self.intermediate + norms)

    @property
    def num_parameters(self) -> int:
        """Weights in all, embeddings included."""
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layer_parameters + embeddings + self.hidden

    @property
    def read_parameters(self) -> int:
        """Weights that a step reads: the layers and the output layer, of the embedding a few rows."""
        return self.layer_parameters + self.vocab * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights in bf16."""
        return self.num_parameters * _BF16_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value for each layer and KV head, in bf16."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * _BF16_BYTES

    @property
    def attention_width(self) -> int:
        """Multiplications of a (query, key) pair, but for a constant."""
        return self.num_layers * self.num_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Member:
    """One LLM of the pool."""

    name: str
    """Of its server."""
    model: str
    architecture: Architecture


MEMBERS = (
    Member(
        "deepseek-r1-32b",
        "DeepSeek-R1-Distill-Qwen-32B",
        Architecture(64, 5120, 40, 8, 128, 27648, 152064, qkv_bias=True),
    ),
    Member(
        "mistral-24b",
        "Mistral-Small-24B-Instruct-2501",
        Architecture(40, 5120, 32, 8, 128, 32768, 131072),
    ),
    Member(
        "qwen-coder-14b",
        "Qwen2.5-Coder-14B-Instruct",
        Architecture(48, 5120, 40, 8, 128, 13824, 152064, qkv_bias=True),
    ),
    Member(
        "llama-8b",
        "Llama-3.1-8B-Instruct",
        Architecture(32, 4096, 32, 8, 128, 14336, 128256),
    ),
    Member(
        "llama-3b",
        "Llama-3.2-3B-Instruct",
        Architecture(28, 3072, 24, 8, 128, 8192, 128256, tied_embeddings=True),
    ),
)


def num_gpu_blocks(architecture: Architecture, kv_and_weights_bytes: int, block_tokens: int, tp_size: int = 1) -> int:
    """KV blocks that fit beside the weights, the null block included; an estimate of what vLLM would find.

    Parameters
    ----------
    kv_and_weights_bytes
        Memory of each GPU that is left for the two.
    tp_size
        GPUs that share each layer; a block's bytes and the weights are split evenly.
    """
    left = kv_and_weights_bytes - architecture.weight_bytes // tp_size
    return left // (block_tokens * architecture.kv_bytes_per_token // tp_size)
