"""Turn the workload section of an experiment file into a table of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .arrivals import Arrivals, Clients
from .lengths import Length, PositiveInt, Tokens, check_weights, weighted_choice
from .readers import Format, read_requests
from .typed_files import NotEmpty, Section

PositiveFloat = Annotated[float, Field(gt=0)]


class TraceWorkload(Section):
    """Requests from a file."""

    kind: Literal["trace"] = "trace"
    path: Path
    """The file; a relative path starts at the experiment file's folder."""
    format: Format = "auto"
    """Its format, see `read_requests`."""
    num: PositiveInt | None = None
    """Only so many requests, from the first on; all by default."""
    rate_scale: PositiveFloat = 1.0
    """How many times faster than recorded the requests come."""


class SyntheticWorkload(Section):
    """Requests from an arrival process and length distributions."""

    kind: Literal["synthetic"] = "synthetic"
    arrivals: Arrivals
    """When the requests come."""
    num: PositiveInt | None = None
    """How many requests; either this or ``duration_s``."""
    duration_s: PositiveFloat | None = None
    """For how long requests come."""
    prompt_tokens: Length | None = None
    """Prompt lengths; may be left out if every client has its own."""
    output_tokens: Length | None = None
    """Output lengths; may be left out if every client has its own."""

    @model_validator(mode="after")
    def _is_complete(self) -> SyntheticWorkload:
        wrong = []
        if (self.num is None) == (self.duration_s is None):
            wrong.append("give either num or duration_s")
        wrong += [
            f"{field} is missing, and not every client has its own"
            for field in ("prompt_tokens", "output_tokens")
            if any(length is None for length in self.lengths(field))
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def lengths(self, field: Literal["prompt_tokens", "output_tokens"]) -> list[Length | None]:
        """Return the distribution for each client, or the only one where there are no clients."""
        own: Length | None = getattr(self, field)
        if not isinstance(self.arrivals, Clients):
            return [own]
        return [getattr(client, field) or own for client in self.arrivals.clients]


Workload = Annotated[TraceWorkload | SyntheticWorkload, Field(discriminator="kind")]
"""What is asked of the pool, chosen by ``kind``."""


class Budgets(Section):
    """A mix of latency budgets: each request draws one tier, independently.

    The default tiers are InfraMind's.
    """

    tiers_s: Annotated[tuple[PositiveFloat, ...], NotEmpty] = (10.0, 50.0, 200.0, 600.0, 1800.0)
    """The budgets, in seconds."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """How often each tier occurs, in any unit; all equally often by default."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Budgets:
        check_weights(self.weights, "tiers_s", len(self.tiers_s))
        return self

    def sample(self, rng: np.random.Generator, num: int) -> NDArray[np.float64]:
        """Return ``num`` budgets in seconds."""
        return np.array(self.tiers_s)[weighted_choice(rng, num, len(self.tiers_s), self.weights)]


def build_requests(
    workload: TraceWorkload | SyntheticWorkload,
    budgets: Budgets | None,
    seed: int,
    base: Path,
    *,
    max_model_len: int | None = None,
) -> pd.DataFrame:
    """Return the requests of a workload, in order of arrival.

    Arrivals, prompt lengths, output lengths and budgets each have a random stream of their own, spawned from
    ``seed``: request k keeps its lengths and its budget when the rate changes, so that policies and loads are
    compared on common random numbers.

    Parameters
    ----------
    workload
        What to build.
    budgets
        Draws ``budget_s`` for each request that has none; None leaves them without.
    seed
        Equal seeds give equal frames.
    base
        The folder at which a relative trace path starts.
    max_model_len
        Longer prompts in a trace are mistakes; None: any length.

    Returns
    -------
    A frame with index 0..n-1, columns of `schema.REQUESTS` and the other columns of the trace; for a mixture
    of clients, ``client`` is the index of the sender. As of `read_requests`, ``attrs["num_failed_dropped"]`` says
    how many failed requests of a trace it leaves out.

    Raises
    ------
    TraceError
        If the trace has mistakes.
    """
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
    arrival_rng, prompt_rng, output_rng, budget_rng = streams
    if isinstance(workload, TraceWorkload):
        frame = read_requests(base / workload.path, fmt=workload.format, max_model_len=max_model_len)
        frame = frame.head(workload.num) if workload.num else frame
        frame = frame.assign(arrival_s=frame["arrival_s"] / workload.rate_scale)
    else:
        frame = _synthesize(workload, arrival_rng, prompt_rng, output_rng)
    if budgets is not None:
        drawn = pd.Series(budgets.sample(budget_rng, len(frame)), index=frame.index)
        frame["budget_s"] = frame["budget_s"].fillna(drawn) if "budget_s" in frame else drawn
    return frame


def _synthesize(
    workload: SyntheticWorkload,
    arrival_rng: np.random.Generator,
    prompt_rng: np.random.Generator,
    output_rng: np.random.Generator,
) -> pd.DataFrame:
    columns: dict[str, NDArray[Any]] = {}
    extent: dict[str, Any] = {"num": workload.num, "duration_s": workload.duration_s}
    if isinstance(workload.arrivals, Clients):
        times, clients = workload.arrivals.times_and_clients(arrival_rng, **extent)
        columns["client"] = clients
    else:
        times = workload.arrivals.times(arrival_rng, **extent)
        clients = np.zeros(len(times), dtype=np.intp)
    prompts = _sample_each(workload.lengths("prompt_tokens"), prompt_rng, clients)
    outputs = _sample_each(workload.lengths("output_tokens"), output_rng, clients)
    return pd.DataFrame({"arrival_s": times, "prompt_tokens": prompts, "output_tokens": outputs} | columns)


def _sample_each(lengths: list[Length | None], rng: np.random.Generator, owners: NDArray[np.intp]) -> Tokens:
    """Draw for each request from its owner's distribution, each owner with a stream of its own."""
    tokens = np.zeros(len(owners), dtype=np.int64)
    for owner, (length, stream) in enumerate(zip(lengths, rng.spawn(len(lengths)), strict=True)):
        if length is None:
            raise ValueError(f"owner {owner} has no lengths")  # SyntheticWorkload does not let it happen
        tokens[owners == owner] = length.sample(stream, int((owners == owner).sum()))
    return tokens
