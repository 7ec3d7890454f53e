"""When requests arrive: point processes, each a section of an experiment file.

Every process maps one sequence of unit-mean gaps to seconds, so with the same generator a higher rate gives
the same arrivals closer together (common random numbers). The renewal processes are stationary: their first
gap has the law of the wait that a passer-by sees, hence exactly ``rate * t`` arrivals are expected by every
t. Begun with an ordinary gap, a process would expect (cv^2 - 1) / 2 more of them, all at the very start.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from .lengths import Length
from .typed_files import NotEmpty, Section

Floats = NDArray[np.float64]
PositiveFloat = Annotated[float, Field(gt=0)]

RATES_PER_MIN = (10, 20, 30, 50, 100, 150, 200)
"""The load levels of InfraMind's training and evaluation, from idle to saturated."""


class _Process(Section):
    """A renewal process in a time of its own, mapped to seconds."""

    rate_per_min: PositiveFloat
    """Mean arrivals in a minute, bursts left out; see `RATES_PER_MIN` for the usual ones."""

    def times(self, rng: np.random.Generator, *, num: int | None = None, duration_s: float | None = None) -> Floats:
        """Return the first ``num`` arrivals, or all those before ``duration_s``, as sorted seconds.

        Raises
        ------
        ValueError
            Unless exactly one of ``num`` and ``duration_s`` is given.
        """
        _check_extent(num, duration_s)
        if num is not None:
            return self._seconds(np.cumsum(_unit_gaps(rng, self._gap_cv(), num)))
        assert duration_s is not None  # by _check_extent
        blocks = [_unit_gaps(rng, self._gap_cv(), 1024)]
        while (times := self._seconds(np.cumsum(np.concatenate(blocks))))[-1] < duration_s:
            blocks.append(_further_unit_gaps(rng, self._gap_cv(), sum(map(len, blocks))))
        return times[: np.searchsorted(times, duration_s)]

    def _gap_cv(self) -> float:
        return 1.0

    def _seconds(self, units: Floats) -> Floats:
        """Return when ``units`` arrivals are expected: the inverse of the cumulative rate."""
        return units / self._per_s()

    def _per_s(self) -> float:
        return self.rate_per_min / 60


class Poisson(_Process):
    """Independent arrivals at a constant rate: exponential gaps, open loop."""

    kind: Literal["poisson"] = "poisson"


class Gamma(_Process):
    """Gamma-distributed gaps: burstier than Poisson for ``cv`` above 1, more regular below."""

    kind: Literal["gamma"] = "gamma"
    cv: PositiveFloat
    """Coefficient of variation of the gaps; 1 is Poisson. ``vllm bench serve --burstiness`` is 1 / cv^2."""

    def _gap_cv(self) -> float:
        return self.cv


class Microburst(_Process):
    """Poisson arrivals with a short burst at the end of every period.

    The mean rate is ``rate_per_min * (1 + (factor - 1) * burst_s / period_s)``: 2.35 times the base rate with
    the defaults, which are InfraMind's (x10 for 3 s every 20 s).
    """

    kind: Literal["microburst"] = "microburst"
    factor: Annotated[float, Field(ge=1)] = 10.0
    """How many times the base rate a burst has."""
    burst_s: PositiveFloat = 3.0
    """How long a burst lasts."""
    period_s: PositiveFloat = 20.0
    """From one burst to the next, start to start."""

    @model_validator(mode="after")
    def _burst_fits(self) -> Microburst:
        if self.burst_s >= self.period_s:
            raise ValueError(f"burst_s ({self.burst_s:g}) must be less than period_s ({self.period_s:g})")
        return self

    def _seconds(self, units: Floats) -> Floats:
        quiet_s = self.period_s - self.burst_s
        in_quiet = quiet_s * self._per_s()
        in_period = in_quiet + self.burst_s * self._per_s() * self.factor
        periods, rest = np.divmod(units, in_period)
        within_s = np.interp(rest, (0, in_quiet, in_period), (0, quiet_s, self.period_s))
        return periods * self.period_s + within_s


class Sustained(_Process):
    """Poisson arrivals with one long surge.

    The factor of 3 is InfraMind's; when its surge begins and how long it lasts is not published, so these
    two defaults are ours.
    """

    kind: Literal["sustained"] = "sustained"
    factor: Annotated[float, Field(ge=1)] = 3.0
    """How many times the base rate the surge has."""
    start_s: Annotated[float, Field(ge=0)] = 60.0
    """When the surge begins."""
    surge_s: PositiveFloat = 120.0
    """How long the surge lasts; the base rate returns after it."""

    def _seconds(self, units: Floats) -> Floats:
        before = self.start_s * self._per_s()
        in_surge = np.clip(units - before, 0, self.surge_s * self._per_s() * self.factor)
        return (units - in_surge + in_surge / self.factor) / self._per_s()


class Client(Section):
    """One of the clients that make up the traffic."""

    share: PositiveFloat
    """Its share of the requests, in any unit: shares are divided by their sum."""
    cv: PositiveFloat = 1.0
    """Coefficient of variation of its gaps."""
    prompt_tokens: Length | None = None
    """Its prompt lengths; those of the workload by default."""
    output_tokens: Length | None = None
    """Its output lengths; those of the workload by default."""


class Clients(Section):
    """Several clients, each with its own rate, burstiness and lengths.

    In production, traffic is bursty and its lengths drift because a few heavy clients come and go (ServeGen,
    Xiang et al. 2025). Each client is a stationary gamma process; together they are sorted into one.
    """

    kind: Literal["clients"] = "clients"
    rate_per_min: PositiveFloat
    """Mean arrivals in a minute, of all clients together."""
    clients: Annotated[tuple[Client, ...], NotEmpty]
    """Who sends."""

    def times(self, rng: np.random.Generator, *, num: int | None = None, duration_s: float | None = None) -> Floats:
        """Return the first ``num`` arrivals, or all those before ``duration_s``, as sorted seconds.

        Raises
        ------
        ValueError
            Unless exactly one of ``num`` and ``duration_s`` is given.
        """
        return self.times_and_clients(rng, num=num, duration_s=duration_s)[0]

    def times_and_clients(
        self, rng: np.random.Generator, *, num: int | None = None, duration_s: float | None = None
    ) -> tuple[Floats, NDArray[np.intp]]:
        """Return what `times` does, and for each arrival the index of its client."""
        _check_extent(num, duration_s)
        # A seed for each client, so that looking further ahead draws the same arrivals again.
        seeds = rng.integers(2**63, size=len(self.clients))
        if num is None:
            assert duration_s is not None  # by _check_extent
            return self._before(duration_s, seeds)
        horizon_s = 60 * num / self.rate_per_min
        while len((found := self._before(horizon_s, seeds))[0]) < num:
            horizon_s *= 1.5
        return found[0][:num], found[1][:num]

    def _before(self, duration_s: float, seeds: NDArray[np.int64]) -> tuple[Floats, NDArray[np.intp]]:
        total = sum(client.share for client in self.clients)
        streams = [
            Gamma(rate_per_min=self.rate_per_min * client.share / total, cv=client.cv).times(
                np.random.default_rng(seed), duration_s=duration_s
            )
            for client, seed in zip(self.clients, seeds, strict=True)
        ]
        times = np.concatenate(streams)
        owners = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
        order = np.argsort(times, kind="stable")
        return times[order], owners[order]


Arrivals = Annotated[Poisson | Gamma | Microburst | Sustained | Clients, Field(discriminator="kind")]
"""An arrival process, chosen by ``kind``."""


def _check_extent(num: int | None, duration_s: float | None) -> None:
    if (num is None) == (duration_s is None):
        raise ValueError(f"give either num ({num}) or duration_s ({duration_s})")


def _unit_gaps(rng: np.random.Generator, cv: float, num: int) -> Floats:
    """Return ``num`` gaps of mean 1 from an arbitrary moment on: the first is a residual gap."""
    # The gap around an arbitrary moment is length-biased, Gamma(shape + 1); the moment cuts it uniformly.
    shape = cv**-2
    first = rng.random() * rng.standard_gamma(shape + 1) * cv**2
    return np.append(first, _further_unit_gaps(rng, cv, num - 1))[:num]


def _further_unit_gaps(rng: np.random.Generator, cv: float, num: int) -> Floats:
    return rng.standard_gamma(cv**-2, size=max(num, 0)) * cv**2
