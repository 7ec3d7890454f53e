"""The forward passes of the ``set`` networks in numpy: for acting.

A pass over the few decisions of one moment is some thirty operations on tiny arrays. What they cost is the call, not
the arithmetic: about 1 us in numpy, 5 to 10 in PyTorch and its modules. Learning, with gradients and thousands of rows,
uses `networks`; ``tests/agents/test_set_forward.py`` holds the two together.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .features import Features
from .networks import NEVER, SetExecutor, SetPlanner, blinded
from .tensors import FeatureTensors

Floats = NDArray[np.float32]
Weights = Mapping[str, Tensor]
_NORM_EPS = np.float32(1e-5)
"""PyTorch's."""


class _Linear:
    """``x W + b``; ``x``: ``[rows, inputs]``."""

    def __init__(self, weights: Weights, name: str) -> None:
        # Transposed in memory: on tiny arrays four times as fast.
        self._weight: Floats = np.ascontiguousarray(weights[f"{name}.weight"].numpy().T)
        bias = weights.get(f"{name}.bias")
        self._bias: Floats = np.zeros(self._weight.shape[1], np.float32) if bias is None else bias.numpy().copy()

    def __call__(self, x: Floats) -> Floats:
        # What ``@`` does, in half the time.
        y: Floats = x.dot(self._weight)
        y += self._bias
        return y


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0, out=x)


def _mean(x: Floats) -> Floats:
    """Of each row: ``[rows, 1]``; numpy's own does the same, in five times the time."""
    total: Floats = np.add.reduce(x, -1, keepdims=True)
    total /= np.float32(x.shape[-1])
    return total


class _Encoder:
    """As `networks.SetEncoder`."""

    def __init__(self, network: SetExecutor | SetPlanner, weights: Weights) -> None:
        self._options = network.options
        self._query = _Linear(weights, "_encoder._query") if network.options.query else None
        self._roles = weights["_encoder._role.weight"].numpy().copy()
        self._servers = [_Linear(weights, f"_encoder._servers.{layer}") for layer in (0, 2)]
        self._state = [_Linear(weights, f"_encoder._state.{layer}") for layer in (0, 2)]

    def seen(self, features: Features) -> tuple[Floats, Floats, Floats]:
        """Features of actions, servers and context, as far as the network may see them."""
        if self._options.system == "latency-map" and self._options.budget == "seconds":
            return features.actions, features.servers, features.context
        actions, servers, context = blinded(FeatureTensors.of(features), self._options)
        return actions.numpy(), servers.numpy(), context.numpy()

    def __call__(self, features: Features) -> tuple[Floats, Floats]:
        """Codes of servers ``[B * n, hidden/2]`` and of the state ``[B, hidden]``."""
        actions, servers, context = self.seen(features)
        num, num_servers = features.is_open.shape
        first, second = self._servers
        inputs = np.concatenate([servers, actions.reshape(num, num_servers, -1)], -1)
        codes = _relu(second(_relu(first(inputs.reshape(num * num_servers, -1)))))
        # Codes are never below 0: those of closed servers are neither in the sum nor the highest.
        of_open = codes.reshape(num, num_servers, -1) * features.is_open[:, :, None]
        num_open = np.maximum(np.add.reduce(features.is_open, 1, dtype=np.float32), 1)
        parts = [
            self._roles.take(features.role, 0),
            context,
            np.add.reduce(of_open, 1) / num_open[:, None],
            np.maximum.reduce(of_open, 1),
        ]
        if self._query is not None:
            embedding = features.embedding * np.float32(features.embedding.shape[1] ** 0.5)
            parts.insert(0, np.tanh(self._query(embedding)))
        first, second = self._state
        return codes, _relu(second(_relu(first(np.concatenate(parts, -1)))))


class ExecutorScores:
    """As `networks.SetExecutor`, with the weights that it has now."""

    def __init__(self, network: SetExecutor) -> None:
        weights = network.state_dict()
        self._is_factored = network.options.heads == "factored"
        self._encoder = _Encoder(network, weights)
        self._of_code, self._of_state, self._score, self._common = (
            _Linear(weights, name) for name in ("_of_code", "_of_state", "_score", "_common")
        )
        self._direct: Floats = weights["_direct.weight"].numpy()[0].copy()

    def __call__(self, features: Features) -> Floats:
        """Logits ``[B, n * S]``; that of a closed server is ``NEVER``."""
        num, num_servers = features.is_open.shape
        codes, state = self._encoder(features)
        hidden = self._of_code(codes).reshape(num, num_servers, -1)
        hidden += self._of_state(state)[:, None, :]
        scores = self._score(_relu(hidden).reshape(num * num_servers, -1)).reshape(num, num_servers, -1)
        scores += self._encoder.seen(features)[0] @ self._direct
        if self._is_factored:
            scores = scores.mean(-1, keepdims=True) + self._common(state)[:, None, :]
        scores[~features.is_open] = NEVER
        return scores.reshape(num, -1)


class PlannerScores:
    """As `networks.SetPlanner`, with the weights that it has now."""

    def __init__(self, network: SetPlanner) -> None:
        weights = network.state_dict()
        self._encoder = _Encoder(network, weights)
        self._norm: Floats = weights["_norm.weight"].numpy().copy()
        self._shift: Floats = weights["_norm.bias"].numpy().copy()
        self._topology, self._role_set = (_Linear(weights, name) for name in ("_topology", "_role_set"))

    def __call__(self, features: Features) -> tuple[Floats, Floats]:
        """Logits of topologies and of role sets, before masks."""
        state = self._encoder(features)[1]
        state -= _mean(state)
        variance = _mean(np.square(state))
        state = state / np.sqrt(variance + _NORM_EPS) * self._norm + self._shift
        return self._topology(state), self._role_set(state)
