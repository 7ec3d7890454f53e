"""Trained policies as folders: weights as safetensors, all else as JSON. Acting needs nothing of the trainer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from inframind.sim import ServerOptions
from inframind.sim.knowledge import Knowledge
from inframind.traces import ConfigError, Section, load_json, whole_folder
from inframind.workflows import Choice, Observation, Plan, PlannerPolicy

from .acting import Actor
from .features import FEATURE_SIZES, FeatureBuilder
from .networks import NetworkOptions, executor_network, planner_network
from .plans import planner_of
from .policy import Policy

POLICY, WEIGHTS = "policy.json", "weights.safetensors"


class PolicyRecord(Section):
    """What ``policy.json`` says."""

    version: Literal[2] = 2
    """Of the format."""
    name: str
    """Of the training."""
    planner: NetworkOptions | None
    """None: ``fixed_planner``."""
    fixed_planner: str = ""
    """``single``, ``mixed`` or ``TOPOLOGY/ROLE_SET``."""
    mask_infeasible: bool
    """Whether plans are excluded whose latency floor is above the time left."""
    executor: NetworkOptions
    """Its network."""
    embedding_size: int
    """Dimensions of the queries' embeddings."""
    feature_sizes: tuple[int, int, int]
    """Of context, servers and actions, see `inframind.agents.features`."""
    servers: tuple[str, ...]
    """LLMs of the pool that it was trained on, server by server."""
    training: dict[str, Any]
    """The training file as resolved, and how it went."""


def save_policy(folder: Path, record: PolicyRecord, planner: nn.Module | None, executor: nn.Module) -> None:
    """Write a policy, whole or not at all, in place of an older one.

    Raises
    ------
    ConfigError
        Something else stands there, or nothing can be written.
    """
    networks = {"planner": planner, "executor": executor}
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, network in networks.items()
        if network is not None
        for key, value in network.state_dict().items()
    }
    if folder.exists() and not (folder / POLICY).exists():
        raise ConfigError(folder, ["is there, and not a policy's folder; name another"])
    try:
        with whole_folder(folder) as new:
            (new / WEIGHTS).write_bytes(save_tensors(tensors))
            (new / POLICY).write_text(json.dumps(record.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(folder, [f"cannot be written: {error.strerror or error}"]) from None


def load_policy(folder: Path, servers: Sequence[ServerOptions], knowledge: Knowledge, seed: int = 0) -> Policy:
    """A trained policy for a pool.

    Parameters
    ----------
    seed
        Of a planner that draws its plans; what was learnt decides by what is most probable.

    Raises
    ------
    ConfigError
        It is no policy, or one that cannot serve this pool.
    """
    record = load_json(folder / POLICY, PolicyRecord)
    if record.feature_sizes != FEATURE_SIZES:
        raise ConfigError(
            folder,
            [f"was trained on features of sizes {record.feature_sizes}, this version has {FEATURE_SIZES}: train again"],
        )
    models = tuple(server.model for server in servers)
    if record.executor.kind != "set" and models != record.servers:
        raise ConfigError(
            folder,
            [
                f"serves a pool of {', '.join(record.servers)} in this order alone (executor.network.kind = "
                f"{record.executor.kind!r}); this one has {', '.join(models)}"
            ],
        )
    executor = executor_network(record.executor, record.embedding_size, len(record.servers))
    planner: nn.Module | PlannerPolicy = planner_of(record.fixed_planner, seed)
    networks = {"executor": executor}
    if record.planner is not None:
        networks["planner"] = planner = planner_network(record.planner, record.embedding_size)
    try:
        tensors = load_tensors((folder / WEIGHTS).read_bytes())
        for name, network in networks.items():
            start = f"{name}."
            network.load_state_dict(
                {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            )
            network.eval()
    except OSError as error:
        raise ConfigError(folder / WEIGHTS, [f"cannot be read: {error.strerror}"]) from None
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(folder / WEIGHTS, [f"does not hold this policy: {str(error).splitlines()[0]}"]) from None
    # On one decision a thread more costs more than it brings.
    torch.set_num_threads(1)
    options = [record.executor] if record.planner is None else [record.planner, record.executor]
    builder = FeatureBuilder(knowledge, with_embedding=any(each.reads_embedding for each in options))
    actor = Actor(builder, planner, executor, mask_infeasible=record.mask_infeasible)
    trained = TrainedPolicy(actor)
    return Policy(trained, trained)


class TrainedPolicy:
    """Planner and executor, one decision at a time."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def plan(self, observation: Observation) -> Plan:
        """The most probable plan."""
        topology, role_set = self._actor.decide([observation]).answers[0]
        return Plan(str(topology), role_set)

    def choose(self, observation: Observation) -> Choice:
        """The most probable pair of server and strategy."""
        server, strategy = self._actor.decide([observation]).answers[0]
        return Choice(int(server), strategy)
