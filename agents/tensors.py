"""Features as PyTorch tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from .features import Features


class FeatureTensors(NamedTuple):
    """`Features`, field by field."""

    embedding: Tensor
    context: Tensor
    role: Tensor
    servers: Tensor
    actions: Tensor
    is_open: Tensor
    budget_s: Tensor
    remaining_s: Tensor
    latency_s: Tensor

    @classmethod
    def of(cls, features: Features) -> "FeatureTensors":
        """Without copies."""
        return cls(*(torch.from_numpy(getattr(features, name)) for name in cls._fields))

    def rows(self, rows: Tensor) -> "FeatureTensors":
        """Some of the decisions."""
        return FeatureTensors(*(tensor.index_select(0, rows) for tensor in self))
