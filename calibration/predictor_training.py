"""Train the latency predictors on logs; PyTorch is needed here only.

TTFT and TPOT are fitted by the Huber loss of log(predicted / actual): a prediction twice too long is as bad at 30 ms as
at 30 s, and a straggler counts by how many times too long it took, not by its square. Such a prediction is near the
median. Lengths are fitted by the gamma deviance, whose best prediction is the mean, as L = TTFT + TPOT * N needs it; no
straggler is to be feared, for ``max_tokens`` bounds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inframind.traces import TraceError

from .predictor_data import MIN_CALLS
from .predictors import (
    IS_LOG,
    NUM_HIDDEN,
    NUM_HIDDEN_LENGTH,
    About,
    Floats,
    InputRange,
    LatencyPredictors,
    LengthMlp,
    ModelRecord,
    StackedMlp,
)

Progress: TypeAlias = Callable[[float], None]

INPUTS = {"ttft": ("prompt_tokens", "running", "waiting"), "tpot": ("running", "waiting")}
"""The theory document's, in its order (4.2 and 4.3)."""
LEVELS = (0.01, 0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.95, 0.99)
"""Of the residual quantiles."""
EMBEDDING_SIZE = 8
"""Of the learned embeddings of models and strategies."""
BATCH = 256
EPOCH = 4096
"""Calls of each model between two looks at the validation loss, or all of them if there are more."""
MAX_EPOCHS = 150
PATIENCE = 15
"""Epochs without a better validation loss after which training stops."""
LEARNING_RATE = 1e-3
STRATEGY_PENALTY = 1e-3
"""Of the squared difference between a strategy's outputs and those that a model's strategies share: with few calls of a
strategy, or none, its predictions are those of all strategies."""
LENGTH_DECAY = 0.1
"""Weight decay of the length MLP: an embedding has more numbers than a log may have queries."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What models and strategies there are; their order is that of all arrays."""

    models: tuple[str, ...]
    strategies: tuple[str, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Vocabulary:
        """In alphabetical order."""
        return cls(tuple(sorted(frame["model"].unique())), tuple(sorted(frame["strategy"].unique())))

    def codes(self, frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of each row's model and strategy."""
        model = pd.Categorical(frame["model"], categories=self.models).codes.astype(np.int64)
        strategy = pd.Categorical(frame["strategy"], categories=self.strategies).codes.astype(np.int64)
        return model, strategy


def train_predictors(
    frame: pd.DataFrame,
    gauges: dict[str, str],
    *,
    embeddings: Floats | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> LatencyPredictors:
    """Fit on the rows of part ``train``, stop by those of part ``validation``, leave ``test`` alone.

    Parameters
    ----------
    frame
        Columns of `predictor_data.COLUMNS`, of one log or several.
    gauges
        Where each log's gauges are from.
    embeddings
        Of queries, (queries, E); None: lengths are means over model and strategy.
    seed
        Of the initial weights and the order of the calls. The same seed on the same machine: the same predictors.
    on_progress
        Called with the share that is done.

    Raises
    ------
    TraceError
        If a model has too few calls, or a query has no embedding.
    """
    vocabulary = Vocabulary.of(frame)
    check_trainable(frame, embeddings)
    done = on_progress or (lambda share: None)
    train, validation = (frame[frame["part"] == part] for part in ("train", "validation"))
    ttft_mlp = _train_stacked("ttft", vocabulary, train, validation, seed, lambda share: done(0.4 * share))
    tpot_mlp = _train_stacked("tpot", vocabulary, train, validation, seed, lambda share: done(0.4 + 0.3 * share))
    length_mlp = None
    if embeddings is not None:
        length_mlp = _train_length(
            vocabulary, train, validation, embeddings, seed, lambda share: done(0.7 + 0.3 * share)
        )
    about = About(
        models=vocabulary.models,
        strategies=vocabulary.strategies,
        embedding_size=None if embeddings is None else embeddings.shape[1],
        gauges=gauges,
        levels=LEVELS,
        seed=seed,
        records={},
    )
    predictors = LatencyPredictors(about, ttft_mlp, tpot_mlp, mean_lengths(vocabulary, train), length_mlp)
    records = {model: _record(predictors, model, train, validation, embeddings) for model in vocabulary.models}
    predictors.about = about.model_copy(update={"records": records})
    return predictors


def check_trainable(frame: pd.DataFrame, embeddings: Floats | None) -> None:
    """Find out whether there is enough to learn from.

    Raises
    ------
    TraceError
        If a model has fewer calls than `MIN_CALLS`, or a query has no embedding.
    """
    has_tpot = frame[frame["tpot_s"] > 0]
    counts = has_tpot.groupby(["model", "part"]).size()
    problems = [
        f"model {model}: {counts.get((model, part), 0)} usable calls for {part}, at least {least} are needed"
        for model in sorted(frame["model"].unique())
        for part, least in MIN_CALLS.items()
        if counts.get((model, part), 0) < least
    ]
    if embeddings is not None:
        outside = ~frame["embedding"].between(0, len(embeddings) - 1)
        if outside.any():
            problems.append(
                f"column embedding: {outside.sum()} of {len(frame)} usable calls name no row of the {len(embeddings)} "
                "query embeddings"
            )
    if frame.empty:
        problems.append("no usable calls")
    if problems:
        raise TraceError("calls to learn from", problems)


def check_known(frame: pd.DataFrame, learned: pd.DataFrame) -> None:
    """Find out whether predictors trained on ``learned`` can predict ``frame``.

    Raises
    ------
    TraceError
        If it has a model or a strategy that ``learned`` has not.
    """
    problems = [
        f"{column} {value!r} is not among the calls to learn from"
        for column in ("model", "strategy")
        for value in sorted(set(frame[column]) - set(learned[column]))
    ]
    if problems:
        raise TraceError("held-out logs", problems)


def predict_rows(predictors: LatencyPredictors, frame: pd.DataFrame, embeddings: Floats | None) -> pd.DataFrame:
    """Each call's own TTFT, TPOT, length and end-to-end latency, in columns of these names."""
    model, strategy = Vocabulary(predictors.models, predictors.strategies).codes(frame)
    parts = []
    for start in range(0, len(frame), 4096):
        rows = frame.iloc[start : start + 4096]
        # Each call asks about all models, with the gauges of its own server, and its own is picked.
        gauges = [np.tile(rows[[name]].to_numpy(np.float32), len(predictors.models)) for name in ("running", "waiting")]
        queries = None if embeddings is None else embeddings[rows["embedding"]]
        at = (np.arange(len(rows)), model[start : start + 4096], strategy[start : start + 4096])
        length = np.broadcast_to(predictors.length(queries), (len(rows), *predictors.mean_length.shape))
        parts.append(
            pd.DataFrame(
                {
                    "ttft": predictors.ttft(rows["prompt_tokens"], *gauges)[at],
                    "tpot": predictors.tpot(*gauges)[at],
                    "length": length[at],
                }
            )
        )
    return with_e2e(pd.concat(parts).set_axis(frame.index).astype(np.float64))


def with_e2e(predicted: pd.DataFrame) -> pd.DataFrame:
    """Add the end-to-end latency that the parts make (theory, 4.1)."""
    return predicted.assign(e2e=predicted["ttft"] + predicted["tpot"] * predicted["length"])


def actual(frame: pd.DataFrame) -> pd.DataFrame:
    """What each call took, in the columns of `predict_rows`; a call of one token has no TPOT."""
    names = {"ttft_s": "ttft", "tpot_s": "tpot", "output_tokens": "length", "e2e_s": "e2e"}
    return frame[list(names)].rename(columns=names).astype(np.float64)


def mean_lengths(vocabulary: Vocabulary, train: pd.DataFrame) -> Floats:
    """Mean output tokens, (models, strategies).

    A pair without calls: the mean of the model's calls times that of the strategy's, over that of all.
    """
    lengths = train["output_tokens"]
    by_model = lengths.groupby(train["model"]).mean().reindex(vocabulary.models).to_numpy()
    by_strategy = lengths.groupby(train["strategy"]).mean().reindex(vocabulary.strategies).fillna(lengths.mean())
    guess = np.outer(by_model, by_strategy) / lengths.mean()
    known = lengths.groupby([train["model"], train["strategy"]]).mean().unstack()
    table = known.reindex(index=list(vocabulary.models), columns=list(vocabulary.strategies)).to_numpy()
    return np.where(np.isnan(table), guess, table).astype(np.float32)


def _record(
    predictors: LatencyPredictors,
    model: str,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    embeddings: Floats | None,
) -> ModelRecord:
    own, held = train[train["model"] == model], validation[validation["model"] == model]
    ratios = actual(held) / predict_rows(predictors, held, embeddings)
    return ModelRecord(
        num_calls=len(own),
        ranges={
            name: InputRange(least=float(own[name].min()), greatest=float(own[name].max())) for name in INPUTS["ttft"]
        },
        residual_ratios={target: residual_quantiles(ratios[target]) for target in ("ttft", "tpot", "length", "e2e")},
    )


def residual_quantiles(ratios: pd.Series[float]) -> tuple[float, ...]:
    """Quantiles of actual / predicted at `LEVELS`; 1 where there is nothing to go by."""
    known = ratios.dropna()
    return tuple(float(q) for q in known.quantile(list(LEVELS))) if len(known) else (1.0,) * len(LEVELS)


class _Stacked(nn.Module):
    """`StackedMlp` in training: scaled inputs, and strategies' outputs as what they share plus what sets them apart."""

    def __init__(self, num_models: int, num_inputs: int, num_strategies: int, generator: torch.Generator) -> None:
        super().__init__()

        def uniform(num_in: int, *shape: int) -> nn.Parameter:
            bound = num_in**-0.5  # as torch.nn.Linear
            return nn.Parameter((torch.rand(num_models, *shape, generator=generator) * 2 - 1) * bound)

        h = NUM_HIDDEN
        self.weight_0, self.bias_0 = uniform(num_inputs, num_inputs, h), uniform(num_inputs, 1, h)
        self.weight_1, self.bias_1 = uniform(h, h, h), uniform(h, 1, h)
        self.weight_2 = uniform(h, h, 1)
        # Softplus of this is 1: training begins at the unit, which is the median.
        self.bias_2 = nn.Parameter(torch.full((num_models, 1, 1), 0.5413))
        self.own_weight = nn.Parameter(torch.zeros(num_models, h, num_strategies))
        self.own_bias = nn.Parameter(torch.zeros(num_models, 1, num_strategies))

    def forward(self, inputs: Tensor) -> Tensor:
        """(models, batch, inputs) to (models, batch, strategies), before Softplus."""
        hidden = functional.relu(torch.baddbmm(self.bias_0, inputs, self.weight_0))
        hidden = functional.relu(torch.baddbmm(self.bias_1, hidden, self.weight_1))
        return torch.baddbmm(self.bias_2 + self.own_bias, hidden, self.weight_2 + self.own_weight)

    def penalty(self) -> Tensor:
        """Keeps strategies together that the calls do not tell apart."""
        return STRATEGY_PENALTY * (self.own_weight.square().sum() + self.own_bias.square().sum())


@dataclass(frozen=True, slots=True)
class _Rows:
    """Calls of each model side by side: (models, calls, ...), the shorter ones filled up with their own again."""

    inputs: Tensor
    strategy: Tensor
    log_ratio: Tensor
    """log(actual / unit)."""

    def at(self, index: Tensor) -> _Rows:
        """These calls of each model: (models, batch)."""
        return _Rows(
            self.inputs.gather(1, index[:, :, None].expand(-1, -1, self.inputs.shape[2])),
            self.strategy.gather(1, index),
            self.log_ratio.gather(1, index),
        )

    def loss(self, network: _Stacked) -> Tensor:
        """Of each model."""
        output = network(self.inputs).gather(2, self.strategy[:, :, None])[:, :, 0]
        log_predicted = functional.softplus(output).clamp_min(1e-9).log()
        return functional.huber_loss(log_predicted, self.log_ratio, reduction="none").mean(dim=1)


def _train_stacked(
    target: str,
    vocabulary: Vocabulary,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    seed: int,
    on_progress: Progress,
) -> StackedMlp:
    column = f"{target}_s"
    generator = torch.Generator().manual_seed(seed)
    train, validation = (part[part[column] > 0] for part in (train, validation))
    raw = [_scaled(target, train[train["model"] == model]) for model in vocabulary.models]
    shift = np.stack([inputs.mean(axis=0) for inputs in raw])
    scale = np.stack([np.where(inputs.std(axis=0) > 0, inputs.std(axis=0), 1.0) for inputs in raw])
    unit = np.array([train.loc[train["model"] == model, column].median() for model in vocabulary.models])

    def rows(part: pd.DataFrame) -> tuple[_Rows, list[int]]:
        codes, strategies = vocabulary.codes(part)
        by_model = [np.flatnonzero(codes == m) for m in range(len(vocabulary.models))]
        most = max(map(len, by_model))
        index = [np.resize(own, most) for own in by_model]
        inputs = [(_scaled(target, part.iloc[i]) - shift[m]) / scale[m] for m, i in enumerate(index)]
        ratios = [np.log(part[column].to_numpy()[i] / unit[m]) for m, i in enumerate(index)]
        return _Rows(_tensor(inputs), torch.from_numpy(strategies[np.stack(index)]), _tensor(ratios)), [
            len(own) for own in by_model
        ]

    learned, counts = rows(train)
    checked, _ = rows(validation)
    network = _Stacked(len(vocabulary.models), shift.shape[1], len(vocabulary.strategies), generator)
    _fit_stacked(network, learned, counts, checked, generator, on_progress)
    with torch.no_grad():
        weight_0 = network.weight_0.numpy() / scale[:, :, None]
        bias_0 = network.bias_0.numpy() - shift[:, None, :] @ weight_0
        weight_2 = network.weight_2 + network.own_weight
        bias_2 = network.bias_2 + network.own_bias
        weights = (weight_0, network.weight_1.numpy(), weight_2.numpy())
        biases = (bias_0, network.bias_1.numpy(), bias_2.numpy())
    return StackedMlp(
        tuple(weight.astype(np.float32) for weight in weights),
        tuple(bias.astype(np.float32) for bias in biases),
        unit[:, None, None].astype(np.float32),
        IS_LOG[target],
    )


def _fit_stacked(
    network: _Stacked,
    learned: _Rows,
    counts: list[int],
    checked: _Rows,
    generator: torch.Generator,
    on_progress: Progress,
) -> None:
    """Adam with early stopping, for each model by itself: their weights share no loss."""
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    num_models, most = learned.log_ratio.shape
    drawn = max(most, EPOCH)
    best = torch.full((num_models,), torch.inf)
    best_at = torch.zeros(num_models)
    kept = {name: value.detach().clone() for name, value in network.named_parameters()}
    for epoch in range(MAX_EPOCHS):
        # Each model goes through its own calls; one that has few, several times.
        order = torch.stack(
            [
                torch.cat([torch.randperm(num, generator=generator) for _ in range(-(-drawn // num))])[:drawn]
                for num in counts
            ]
        )
        for start in range(0, drawn, BATCH):
            loss = learned.at(order[:, start : start + BATCH]).loss(network).sum() + network.penalty()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            losses = checked.loss(network)
            better = losses < best - 1e-5
            best = torch.where(better, losses, best)
            best_at[better] = epoch
            for name, value in network.named_parameters():
                kept[name][better] = value[better]
        on_progress((epoch + 1) / MAX_EPOCHS)
        if epoch - best_at.max() >= PATIENCE:
            break
    network.load_state_dict(kept)


def _scaled(target: str, part: pd.DataFrame) -> NDArray[np.float64]:
    inputs = part[list(INPUTS[target])].to_numpy(np.float64)
    return np.log1p(inputs) if IS_LOG[target] else inputs


def _tensor(arrays: list[NDArray[np.float64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


class _Length(nn.Module):
    """`LengthMlp` in training."""

    def __init__(self, num_models: int, num_strategies: int, query_size: int) -> None:
        super().__init__()
        self.model = nn.Embedding(num_models, EMBEDDING_SIZE)
        self.strategy = nn.Embedding(num_strategies, EMBEDDING_SIZE)
        first, second = NUM_HIDDEN_LENGTH
        self.layer_0 = nn.Linear(query_size + 2 * EMBEDDING_SIZE, first)
        self.layer_1 = nn.Linear(first, second)
        self.layer_2 = nn.Linear(second, 1)

    def forward(self, query: Tensor, model: Tensor, strategy: Tensor) -> Tensor:
        """(batch) each, to the outputs before Softplus, (batch)."""
        values = torch.cat([query, self.strategy(strategy), self.model(model)], dim=1)
        values = functional.relu(self.layer_1(functional.relu(self.layer_0(values))))
        output: Tensor = self.layer_2(values)[:, 0]
        return output


def _train_length(
    vocabulary: Vocabulary,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    embeddings: Floats,
    seed: int,
    on_progress: Progress,
) -> LengthMlp:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Length(len(vocabulary.models), len(vocabulary.strategies), embeddings.shape[1])
    unit = float(train["output_tokens"].mean())
    table = torch.from_numpy(embeddings)
    # A unit vector of E numbers has elements of about E^-1/2; the network wants inputs of about 1.
    scale = float(embeddings[train["embedding"].unique()].std()) or 1.0

    def rows(part: pd.DataFrame) -> tuple[Tensor, ...]:
        ratio = part["output_tokens"].to_numpy(np.float32) / unit
        columns = (part["embedding"].to_numpy(np.int64), *vocabulary.codes(part), ratio)
        return tuple(torch.tensor(column) for column in columns)

    def deviance(part: tuple[Tensor, ...], index: Tensor) -> Tensor:
        query, model, strategy, ratio = (column[index] for column in part)
        predicted = functional.softplus(network(table[query] / scale, model, strategy)).clamp_min(1e-6)
        return (ratio / predicted + predicted.log()).mean()

    learned, checked = rows(train), rows(validation)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=LENGTH_DECAY)
    best, best_at, kept = np.inf, 0, network.state_dict()
    for epoch in range(MAX_EPOCHS):
        order = torch.randperm(len(train), generator=generator)
        for start in range(0, len(train), BATCH):
            loss = deviance(learned, order[start : start + BATCH])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            now = float(deviance(checked, torch.arange(len(validation))))
        if now < best - 1e-4:
            best, best_at = now, epoch
            kept = {name: value.clone() for name, value in network.state_dict().items()}
        on_progress((epoch + 1) / MAX_EPOCHS)
        if epoch - best_at >= PATIENCE:
            break
    network.load_state_dict(kept)
    return _folded_length(network, embeddings.shape[1], scale, unit)


def _folded_length(network: _Length, query_size: int, scale: float, unit: float) -> LengthMlp:
    """Scale and embeddings of models and strategies become part of the first layer."""
    with torch.no_grad():
        weight, bias = network.layer_0.weight.T, network.layer_0.bias
        of_strategy = network.strategy.weight @ weight[query_size : query_size + EMBEDDING_SIZE]
        of_model = network.model.weight @ weight[query_size + EMBEDDING_SIZE :]
        pairs = of_model[:, None] + of_strategy[None] + bias
        later = (network.layer_1, network.layer_2)
        first, second = (np.ascontiguousarray(layer.weight.T.numpy()) for layer in later)
        first_bias, second_bias = (layer.bias.numpy().copy() for layer in later)
        query_weight = np.ascontiguousarray((weight[:query_size] / scale).numpy())
    return LengthMlp(query_weight, pairs.numpy(), (first, second), (first_bias, second_bias), unit)
