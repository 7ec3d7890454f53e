"""Parts of long logs and the weights of what they hold, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from inframind.calibration.fit_objective import (
    NUM_KINDS,
    BusyTimes,
    Floats,
    MeasuredLog,
    Objective,
    Simulated,
    idle_starts,
    with_pauses,
)
from inframind.calibration.fit_parts import part
from inframind.calibration.step_estimates import estimate_steps, measured_times


def log(arrival_s: list[float], e2e_s: list[float], **columns: object) -> MeasuredLog:
    requests = pd.DataFrame({"arrival_s": arrival_s, "e2e_s": e2e_s, "prompt_tokens": 10, "output_tokens": 2})
    requests = requests.assign(ttft_s=requests["e2e_s"] / 2, **columns)
    return MeasuredLog("log", requests, measured_times(requests, 16, has_prefix_caching=False))


def test_the_server_is_idle_when_all_before_have_ended() -> None:
    assert idle_starts(log([0, 1, 10, 11, 20], [5, 1, 2, 1, 1])).tolist() == [0, 2, 4]


def test_after_a_request_without_an_end_only_a_new_condition_begins_idle() -> None:
    arrival_s, e2e_s = [0.0, 10, 20, 30, 40], [5.0, math.nan, 2, 1, 1]

    assert idle_starts(log(arrival_s, e2e_s)).tolist() == [0, 1]
    assert idle_starts(log(arrival_s, e2e_s, condition=list("aabbb"))).tolist() == [0, 1, 2]
    # A column of that name that tells kinds of requests: the last one came while another ran.
    assert idle_starts(log(arrival_s, [5.0, math.nan, 12, 1, 1], condition=list("aabab"))).tolist() == [0, 1, 2, 4]


def test_a_stretch_of_work_gets_half_as_much_time_again() -> None:
    assert with_pauses(log([0, 1, 10, 20], [4, 1, 6, 1]))["arrival_s"].tolist() == [0, 1, 12, 25]


def test_a_part_has_every_load_of_the_log() -> None:
    """100 requests one at a time, then 100 of an overload: a fifth of each."""
    alone = [10.0 * i for i in range(100)]
    together = [1000 + 0.1 * i for i in range(100)]
    whole = log(alone + together, [1.0] * 100 + [5.0 + i for i in range(100)])

    taken = part(whole, np.ones(200), 0.2)

    arrival_s = taken.requests["arrival_s"].to_numpy()
    assert (arrival_s < 1000).sum() == 20
    assert arrival_s[:20].max() > 900
    assert arrival_s[20:].tolist() == together[:20]
    assert len(taken.times.ttft_s) == 40


def test_what_later_requests_slowed_down_is_not_compared() -> None:
    """The first 20 of a stretch of 100: those of them that ended before the next came are as they were."""
    whole = log([float(i) for i in range(100)], [2.5] * 100)

    taken = part(whole, np.ones(100), 0.2)

    assert len(taken.requests) == 20
    assert np.isfinite(taken.times.ttft_s).tolist() == [True] * 18 + [False] * 2


def test_a_cut_after_which_nothing_had_ended_compares_all() -> None:
    whole = log([0.01 * i for i in range(100)], [50.0] * 100)

    assert np.isfinite(part(whole, np.ones(100), 0.2).times.ttft_s).all()


def test_something_of_every_log_is_left() -> None:
    assert len(part(log([0.1 * i for i in range(30)], [9.0] * 30), np.ones(30), 0.01).requests) == 16


def test_a_server_is_busy_from_a_request_that_finds_it_idle_until_all_have_ended() -> None:
    """Sixteen times two requests: 6 s from the first to the end of the second, which is simulated 0.6 s longer."""
    arrival_s = [10.0 * i + second for i in range(16) for second in (0.0, 1.0)]
    e2e_s = np.array([4.0, 5.0] * 16)
    busy = BusyTimes(log(arrival_s, e2e_s.tolist()))
    ours = Simulated(e2e_s / 2, e2e_s + [0.0, 0.6] * 16, np.array(arrival_s))

    assert busy.sizes.tolist() == [16, 14, 2]
    assert busy.measured_s.tolist() == [8 * 6.0, 7 * 6.0, 6.0]
    assert busy.deviations(ours) == pytest.approx([0.1] * 3)


def test_a_stretch_of_which_not_all_is_known_tells_no_busy_time() -> None:
    busy = BusyTimes(log([0, 1, 10, 11], [4, 5, 4, math.nan]))

    assert busy.measured_s.tolist() == [6.0]
    assert busy.deviations(Simulated(np.ones(4), np.array([4.0, 8, 1, 1]), np.array([0.0, 1, 10, 11]))) == [0.5]


def test_a_ttft_that_scatters_takes_no_weight_from_tpot() -> None:
    """All tokens come 3 % late; the first ones come when they should, or anyhow."""
    whole = log([10.0 * i for i in range(60)], [2.0] * 60, output_tokens=11)
    objective = Objective([whole], estimate_steps([whole.times], 512))
    decoding_s = 1.03 * (whole.times.e2e_s - whole.times.ttft_s)

    def tpot_residuals(ttft_s: Floats) -> Floats:
        ours = [Simulated(ttft_s, ttft_s + decoding_s, whole.times.arrival_s)]
        objective.reweigh(ours)
        of_requests = objective.data_residuals(ours)[: -len(BusyTimes(whole).sizes)]
        _, _, tpot = np.split(of_requests, NUM_KINDS)
        return tpot

    exact = tpot_residuals(whole.times.ttft_s)
    scattered = tpot_residuals(whole.times.ttft_s * np.random.default_rng(0).lognormal(0, 0.7, 60))

    assert (exact > 0.3).all()
    assert scattered == pytest.approx(exact)
