"""The state of a training, written whole and read back to the bit."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from inframind.traces import ConfigError, whole_folder

from .training import Trainer

STATE, TENSORS = "state.json", "tensors.safetensors"


def save_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Write networks, optimisers, multipliers and counters; whole or not at all, in place of an older one."""
    agents = trainer.agents
    tensors = {
        f"{name}.network.{key}": value
        for name, network in agents.networks.items()
        for key, value in network.state_dict().items()
    }
    for name, optimiser in agents.optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}.optimiser.{index}.{key}": value for key, value in state.items()}
    about = {
        "done": trainer.done,
        "best": trainer.best,
        "multipliers": agents.multipliers.state(),
        "averages": agents.averages,
    }
    with whole_folder(folder) as new:
        (new / TENSORS).write_bytes(save({key: value.contiguous() for key, value in tensors.items()}))
        (new / STATE).write_text(json.dumps(about), encoding="utf-8")


def load_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Put a trainer, made from the same training file, into the state of a checkpoint.

    Raises
    ------
    ConfigError
        There is none, or it is of another training.
    """
    agents = trainer.agents
    try:
        about: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = load((folder / TENSORS).read_bytes())
        for name, network in agents.networks.items():
            network.load_state_dict(_under(tensors, f"{name}.network."))
        for name, optimiser in agents.optimisers.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _under(tensors, f"{name}.optimiser.").items():
                index, _, field = key.partition(".")
                state.setdefault(int(index), {})[field] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        agents.multipliers.restore(about["multipliers"])
        agents.averages = about["averages"]
        trainer.done, trainer.best = about["done"], about["best"]
    except OSError as error:
        raise ConfigError(folder, [f"cannot be read: {error.strerror}"]) from None
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(folder, [f"is no checkpoint of this training: {str(error).splitlines()[0]}"]) from None


def _under(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
