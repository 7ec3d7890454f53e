"""What a call would take: the latency map over models and strategies, predicted from what an agent can observe.

The estimate is that of the InfraMind theory document, section 4: for model m and strategy s

    L(m, s) = TTFT(m, s) + TPOT(m, s) * N_out(m, s)
    TTFT(m, s)  = Softplus(MLP([N_in, n_run, n_wait]))
    TPOT(m, s)  = Softplus(MLP([n_run, n_wait]))
    N_out(m, s) = Softplus(MLP([e_q || e_s || e_m]))

with an MLP for each model for the first two and one for all for the third. The document says of TTFT and TPOT that they
are "conditioned on strategy" and does not list it among their inputs. Here it chooses the output: the last layer of a
model's MLP has one for each strategy.

Weights of all models are stacked, and a map is a few matrix products of NumPy: PyTorch is needed for training only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from inframind.traces import ConfigError, Section, load_json, whole_folder

Floats: TypeAlias = NDArray[np.float32]
Target = Literal["ttft", "tpot", "length", "e2e"]

TARGETS: tuple[Target, ...] = ("ttft", "tpot", "length", "e2e")
WEIGHTS_FILE = "predictors.safetensors"
ABOUT_FILE = "predictors.json"
METRICS_FILE = "metrics.csv"
_FILES = {WEIGHTS_FILE, ABOUT_FILE, METRICS_FILE}
NUM_LAYERS = 3
"""Of each MLP: two hidden layers and the outputs."""
NUM_HIDDEN = 32
"""Units of both hidden layers of TTFT and TPOT."""
NUM_HIDDEN_LENGTH = (64, 32)
"""Units of the hidden layers of the length."""


class InputRange(Section):
    """Least and greatest value of an input in the calls that a model was trained on."""

    least: float
    """Nothing smaller was seen."""
    greatest: float
    """Nothing greater was seen: beyond it a prediction extrapolates."""


class ModelRecord(Section):
    """What the predictors of one model were trained on, and how far off they are."""

    num_calls: int
    """Calls that weights were fitted to."""
    ranges: dict[str, InputRange]
    """By input: ``prompt_tokens``, ``running``, ``waiting``."""
    residual_ratios: dict[Target, Annotated[tuple[float, ...], Field(min_length=2)]]
    """By target: quantiles of actual / predicted at ``About.levels``, over the validation calls."""


class About(Section):
    """``predictors.json``: all but the weights."""

    version: Literal[1] = 1
    """Of the folder's layout."""
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """In the order of the weights."""
    strategies: Annotated[tuple[str, ...], Field(min_length=1)]
    """In the order of the weights; ``none`` is that of calls that belong to no workflow."""
    embedding_size: Annotated[int, Field(ge=1)] | None
    """Numbers in a query embedding; None: lengths are means over model and strategy."""
    gauges: dict[str, str]
    """By log: where ``running`` and ``waiting`` came from."""
    levels: Annotated[tuple[float, ...], Field(min_length=2)]
    """Of the residual quantiles, increasing."""
    seed: int
    """Of the split and the initial weights."""
    records: dict[str, ModelRecord]
    """By model."""


@dataclass(frozen=True, slots=True)
class StackedMlp:
    """One MLP per model with Softplus outputs, one for each strategy.

    Scaling of the inputs is part of the first layer, so that weights apply to tokens and requests as they are.
    """

    weights: tuple[Floats, ...]
    """Of each layer: (models, inputs, outputs)."""
    biases: tuple[Floats, ...]
    """Of each layer: (models, 1, outputs)."""
    unit: Floats
    """What an output of 1 stands for, (models, 1, 1); seconds."""
    is_log: bool
    """Whether the first layer takes log(1 + input)."""

    def __call__(self, inputs: Floats) -> Floats:
        """(models, batch, inputs) to (models, batch, strategies)."""
        hidden = np.log1p(inputs) if self.is_log else inputs
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
        return softplus(hidden @ self.weights[-1] + self.biases[-1]) * self.unit

    def select(self, models: Sequence[int], strategies: Sequence[int]) -> StackedMlp:
        """The same for these models and strategies, in this order."""
        last = len(self.weights) - 1
        pick = [(list(models), slice(None), list(strategies) if i == last else slice(None)) for i in range(last + 1)]
        return StackedMlp(
            tuple(np.ascontiguousarray(w[at[0]][:, :, at[2]]) for w, at in zip(self.weights, pick, strict=True)),
            tuple(np.ascontiguousarray(b[at[0]][:, :, at[2]]) for b, at in zip(self.biases, pick, strict=True)),
            self.unit[list(models)],
            self.is_log,
        )


@dataclass(frozen=True, slots=True)
class LengthMlp:
    """One MLP for all models and strategies, with learned embeddings of both and one Softplus output.

    The first layer is linear in [e_q || e_s || e_m]: the part of e_q is computed once for each query, that of each pair
    (model, strategy) once and for all.
    """

    query_weight: Floats
    """(embedding, hidden)."""
    pair_hidden: Floats
    """(models, strategies, hidden): what e_s, e_m and the bias add."""
    weights: tuple[Floats, Floats]
    """Of the layers after the first: (inputs, outputs)."""
    biases: tuple[Floats, Floats]
    """Of the layers after the first: (outputs)."""
    unit: float
    """What an output of 1 stands for; tokens."""

    def __call__(self, query_embedding: Floats) -> Floats:
        """(batch, embedding) to (batch, models, strategies)."""
        num_models, num_strategies, num_hidden = self.pair_hidden.shape
        hidden = (query_embedding @ self.query_weight)[:, None, None, :] + self.pair_hidden
        hidden = np.maximum(hidden, 0, out=hidden).reshape(-1, num_hidden)
        hidden = hidden @ self.weights[0] + self.biases[0]
        np.maximum(hidden, 0, out=hidden)
        outputs = softplus(hidden @ self.weights[1] + self.biases[1]) * np.float32(self.unit)
        return outputs.reshape(-1, num_models, num_strategies)

    def select(self, models: Sequence[int], strategies: Sequence[int]) -> LengthMlp:
        """The same for these models and strategies, in this order."""
        pairs = np.ascontiguousarray(self.pair_hidden[np.ix_(list(models), list(strategies))])
        return LengthMlp(self.query_weight, pairs, self.weights, self.biases, self.unit)


def softplus(values: Floats) -> Floats:
    """log(1 + exp(x)), without overflow."""
    tail = np.abs(values)
    np.exp(np.negative(tail, out=tail), out=tail)
    np.log1p(tail, out=tail)
    tail += np.maximum(values, 0)
    return tail


class LatencyPredictors:
    """TTFT, TPOT and output length of a call, for each model of a pool and each strategy.

    Arrays are NumPy's, times are seconds. Shapes are named B (queries), M (models), S (strategies), E (numbers in a
    query embedding).

    Parameters
    ----------
    about
        What stands in ``predictors.json``.
    ttft_mlp, tpot_mlp
        With weights in the order of ``about.models`` and ``about.strategies``, as all that follow.
    mean_length
        Output tokens, (M, S): where there is no query embedding.
    length_mlp
        None: predictors without query embeddings.
    """

    def __init__(
        self,
        about: About,
        ttft_mlp: StackedMlp,
        tpot_mlp: StackedMlp,
        mean_length: Floats,
        length_mlp: LengthMlp | None,
    ) -> None:
        self.about = about
        self.models = about.models
        self.strategies = about.strategies
        self.ttft_mlp = ttft_mlp
        self.tpot_mlp = tpot_mlp
        self.mean_length = mean_length
        self.length_mlp = length_mlp

    @classmethod
    def load(
        cls, folder: str | Path, models: Sequence[str] | None = None, strategies: Sequence[str] | None = None
    ) -> LatencyPredictors:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            With ``predictors.json`` and ``predictors.safetensors``.
        models, strategies
            What M and S shall mean, in this order; a model may come twice, for two servers. None: as saved.

        Raises
        ------
        ConfigError
            If a file is missing or broken, or these predictors do not know one of the models or strategies.
        """
        about = load_json(Path(folder) / ABOUT_FILE, About)
        path = Path(folder) / WEIGHTS_FILE
        try:
            predictors = _assemble(about, load_file(path))
        except (OSError, SafetensorError) as error:
            raise ConfigError(path, [f"cannot be read: {error}"]) from None
        except (KeyError, ValueError) as error:
            raise ConfigError(path, [f"does not fit {ABOUT_FILE}: {error}"]) from None
        return predictors.select(
            about.models if models is None else models,
            about.strategies if strategies is None else strategies,
            folder,
        )

    def select(self, models: Sequence[str], strategies: Sequence[str], source: str | Path) -> LatencyPredictors:
        """The same for these models and strategies, in this order.

        Raises
        ------
        ConfigError
            If one of them is not known; ``source`` names these predictors in its message.
        """
        problems = []
        for kind, wanted, known in (("model", models, self.models), ("strategy", strategies, self.strategies)):
            if unknown := [name for name in dict.fromkeys(wanted) if name not in known]:
                problems.append(f"trained without {kind} {', '.join(unknown)}; knows {', '.join(known)}")
        if problems:
            raise ConfigError(source, problems)
        rows = [self.models.index(name) for name in models]
        columns = [self.strategies.index(name) for name in strategies]
        return LatencyPredictors(
            self.about.model_copy(update={"models": tuple(models), "strategies": tuple(strategies)}),
            self.ttft_mlp.select(rows, columns),
            self.tpot_mlp.select(rows, columns),
            np.ascontiguousarray(self.mean_length[np.ix_(rows, columns)]),
            None if self.length_mlp is None else self.length_mlp.select(rows, columns),
        )

    def latency_map(
        self,
        prompt_tokens: ArrayLike,
        running: ArrayLike,
        waiting: ArrayLike,
        embedding: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """End-to-end latency of each query on each model with each strategy (theory, 4.5).

        All may lack the axis B, for the map of a single query.

        Parameters
        ----------
        prompt_tokens
            N_in, (B,) or (B, M).
        running, waiting
            n_run and n_wait of the models' servers, (B, M).
        embedding
            e_q, (B, E). None, or predictors without embeddings: mean output lengths.

        Returns
        -------
        numpy.ndarray
            Seconds, (B, M, S).
        """
        if np.ndim(running) == 1:
            tokens, run, wait = (np.asarray(given)[None] for given in (prompt_tokens, running, waiting))
            one: NDArray[np.float64]
            (one,) = self._map(tokens, run, wait, None if embedding is None else np.asarray(embedding)[None])
            return one
        return self._map(prompt_tokens, running, waiting, embedding)

    def _map(
        self, prompt_tokens: ArrayLike, running: ArrayLike, waiting: ArrayLike, embedding: ArrayLike | None
    ) -> NDArray[np.float64]:
        latency = self.tpot(running, waiting)
        latency *= self.length(embedding)
        latency += self.ttft(prompt_tokens, running, waiting)
        return latency.astype(np.float64)

    def ttft(self, prompt_tokens: ArrayLike, running: ArrayLike, waiting: ArrayLike) -> Floats:
        """Time to first token, (B, M, S); inputs as for `latency_map`."""
        queues = self._queues(running, waiting)
        inputs = np.empty((*queues.shape[:2], 3), np.float32)
        inputs[:, :, 0] = np.asarray(prompt_tokens, np.float32).T
        inputs[:, :, 1:] = queues
        return self.ttft_mlp(inputs).swapaxes(0, 1)

    def tpot(self, running: ArrayLike, waiting: ArrayLike) -> Floats:
        """Time per output token, (B, M, S); inputs as for `latency_map`."""
        return self.tpot_mlp(self._queues(running, waiting)).swapaxes(0, 1)

    def length(self, embedding: ArrayLike | None = None) -> Floats:
        """Output tokens, (B, M, S), or (1, M, S) where they are means; input as for `latency_map`."""
        if embedding is None or self.length_mlp is None:
            return self.mean_length[None]
        return self.length_mlp(np.asarray(embedding, np.float32))

    def on_time_probability(self, latency_map: ArrayLike, budget_s: ArrayLike) -> NDArray[np.float64]:
        """P(actual <= budget) of each prediction, from the ratios of actual to predicted seen in validation.

        The empirical counterpart of a calibrated interval, as RouteBalance (arXiv 2606.17949) filters by.

        Parameters
        ----------
        latency_map
            (B, M, S), as `latency_map` gave it.
        budget_s
            Time that is left, (B,).
        """
        latency = np.asarray(latency_map, np.float64)
        ratio = np.asarray(budget_s, np.float64)[:, None, None] / latency
        probability = np.empty_like(ratio)
        for index, model in enumerate(self.models):
            quantiles = self.about.records[model].residual_ratios["e2e"]
            probability[:, index] = np.interp(ratio[:, index], quantiles, self.about.levels, left=0.0, right=1.0)
        return probability

    def save(self, folder: str | Path, extra_files: Mapping[str, str] | None = None) -> None:
        """Write the predictors whole or not at all, in place of older ones.

        ``extra_files`` (name to text) go beside them.

        Raises
        ------
        ConfigError
            If something stands there that is not a folder of predictors, or nothing can be written there.
        """
        check_replaceable(folder)
        with whole_folder(folder) as new:
            save_file(_tensors(self), new / WEIGHTS_FILE)
            about = json.dumps(self.about.model_dump(mode="json"), indent=2)
            for name, text in {ABOUT_FILE: about + "\n", **(extra_files or {})}.items():
                (new / name).write_text(text, encoding="utf-8")

    def _queues(self, running: ArrayLike, waiting: ArrayLike) -> Floats:
        """(M, B, 2)."""
        run, wait = np.asarray(running, np.float32), np.asarray(waiting, np.float32)
        if run.ndim != 2 or run.shape != wait.shape or run.shape[1] != len(self.models):
            raise ValueError(
                f"running {run.shape} and waiting {wait.shape} must both be (queries, {len(self.models)}): one column "
                f"for each of {', '.join(self.models)}"
            )
        queues = np.empty((run.shape[1], run.shape[0], 2), np.float32)
        queues[:, :, 0] = run.T
        queues[:, :, 1] = wait.T
        return queues


def check_replaceable(folder: str | Path) -> None:
    """Find out whether `LatencyPredictors.save` would refuse to write there.

    Raises
    ------
    ConfigError
        If something stands there that is not a folder of predictors.
    """
    target = Path(folder)
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(folder, ["is a file; predictors need a folder"])
    if others := sorted({member.name for member in target.iterdir()} - _FILES):
        raise ConfigError(folder, [f"holds {others[0]}, which is no part of predictors; name another folder"])


def _tensors(predictors: LatencyPredictors) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {"length.mean": predictors.mean_length}
    for name, stacked in (("ttft", predictors.ttft_mlp), ("tpot", predictors.tpot_mlp)):
        tensors[f"{name}.unit"] = stacked.unit
        for i in range(NUM_LAYERS):
            tensors[f"{name}.weight.{i}"], tensors[f"{name}.bias.{i}"] = stacked.weights[i], stacked.biases[i]
    length = predictors.length_mlp
    if length is not None:
        tensors["length.unit"] = np.array([length.unit], np.float32)
        tensors["length.query_weight"], tensors["length.pair_hidden"] = length.query_weight, length.pair_hidden
        for i, (weight, bias) in enumerate(zip(length.weights, length.biases, strict=True), start=1):
            tensors[f"length.weight.{i}"], tensors[f"length.bias.{i}"] = weight, bias
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


IS_LOG: Mapping[str, bool] = {"ttft": False, "tpot": True}
"""Whether inputs go through log(1 + x).

TTFT: no. Time in a queue grows in proportion to the queue, and a network of ReLUs on plain counts keeps to a straight
line beyond what it was trained on, which one on logarithms cannot. TPOT: yes. A batch has at most ``max_num_seqs``
requests, and how many more wait changes nothing: a logarithm does not carry a slight slope on to queues that are ten
times as long."""


def _assemble(about: About, tensors: Mapping[str, Floats]) -> LatencyPredictors:
    """Put saved tensors in their places.

    Raises
    ------
    KeyError, ValueError
        If one is missing, or does not have the shape that ``about`` asks for.
    """
    num_models, num_strategies = len(about.models), len(about.strategies)
    if absent := [model for model in about.models if model not in about.records]:
        raise ValueError(f"records: missing {', '.join(absent)}")
    stacked = {}
    for name, num_inputs in (("ttft", 3), ("tpot", 2)):
        weights = tuple(tensors[f"{name}.weight.{i}"] for i in range(NUM_LAYERS))
        biases = tuple(tensors[f"{name}.bias.{i}"] for i in range(NUM_LAYERS))
        _check_shape(f"{name}.weight.0", weights[0], (num_models, num_inputs, weights[0].shape[-1]))
        for i in range(1, NUM_LAYERS):
            outputs = num_strategies if i == NUM_LAYERS - 1 else weights[i].shape[-1]
            _check_shape(f"{name}.weight.{i}", weights[i], (num_models, weights[i - 1].shape[-1], outputs))
        for i in range(NUM_LAYERS):
            _check_shape(f"{name}.bias.{i}", biases[i], (num_models, 1, weights[i].shape[-1]))
        unit = tensors[f"{name}.unit"]
        _check_shape(f"{name}.unit", unit, (num_models, 1, 1))
        stacked[name] = StackedMlp(weights, biases, unit, IS_LOG[name])
    mean_length = tensors["length.mean"]
    _check_shape("length.mean", mean_length, (num_models, num_strategies))
    return LatencyPredictors(about, stacked["ttft"], stacked["tpot"], mean_length, _assemble_length(about, tensors))


def _assemble_length(about: About, tensors: Mapping[str, Floats]) -> LengthMlp | None:
    if about.embedding_size is None:
        return None
    query_weight, pair_hidden = tensors["length.query_weight"], tensors["length.pair_hidden"]
    weights = (tensors["length.weight.1"], tensors["length.weight.2"])
    biases = (tensors["length.bias.1"], tensors["length.bias.2"])
    num_hidden = query_weight.shape[-1]
    _check_shape("length.query_weight", query_weight, (about.embedding_size, num_hidden))
    _check_shape("length.pair_hidden", pair_hidden, (len(about.models), len(about.strategies), num_hidden))
    _check_shape("length.weight.1", weights[0], (num_hidden, weights[0].shape[-1]))
    _check_shape("length.weight.2", weights[1], (weights[0].shape[-1], 1))
    return LengthMlp(query_weight, pair_hidden, weights, biases, float(tensors["length.unit"][0]))


def _check_shape(name: str, tensor: Floats, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} is {tensor.shape}, not {shape}")
