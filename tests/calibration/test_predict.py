"""What a server file predicts, by hand."""

import math

import pandas as pd
import pytest

from inframind.calibration import as_client_sees, predict
from inframind.sim import ServerSection


def one_at_a_time(**scheduler: object) -> ServerSection:
    """Serves one request after the other, a token a second."""
    return ServerSection.model_validate(
        {
            "name": "slow",
            "model": "tiny",
            "scheduler": {"max_num_seqs": 1, "num_blocks": 100, "max_model_len": 1000, "async_scheduling": False}
            | scheduler,
            "step_time": {"fixed_s": 1.0, "prefill_token_s": 0.0, "decode_s": 0.0},
        }
    )


def test_requests_wait_for_their_turn() -> None:
    requests = pd.DataFrame(
        {"arrival_s": [0.0, 0.5, 10.0, 10.25], "prompt_tokens": 10, "output_tokens": [2, 3, 1, 5], "team": list("abcd")}
    )

    predicted = predict(requests, one_at_a_time())

    assert list(predicted) == ["arrival_s", "prompt_tokens", "output_tokens", "team", "sim_ttft_s", "sim_e2e_s"]
    assert predicted["sim_ttft_s"].tolist() == pytest.approx([1.0, 2.5, 1.0, 1.75])
    assert predicted["sim_e2e_s"].tolist() == pytest.approx([2.0, 4.5, 1.0, 5.75])


def test_what_was_measured_changes_nothing() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": 10, "output_tokens": 4})

    plain = predict(requests, one_at_a_time())
    measured = predict(requests.assign(ttft_s=[9.0, math.nan], e2e_s=99.0), one_at_a_time())

    assert measured["sim_e2e_s"].tolist() == plain["sim_e2e_s"].tolist()


def test_a_request_that_is_not_served_has_no_times() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": [2000, 10], "output_tokens": 4})

    predicted = predict(requests, one_at_a_time())

    assert predicted["sim_ttft_s"].isna().tolist() == [True, False]
    assert predicted["sim_e2e_s"].isna().tolist() == [True, False]


def test_the_times_of_a_request_that_failed_on_the_way_do_not_count() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0, 1.0], "prompt_tokens": 10, "output_tokens": 4})
    calls = pd.DataFrame({"outcome": ["finished", "aborted"], "ttft_s": [1.0, 2.0], "e2e_s": [4.0, math.nan]})

    seen = as_client_sees(requests, calls, one_at_a_time())

    assert seen["sim_ttft_s"].isna().tolist() == [False, True]


def test_progress_is_told() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0, 50.0], "prompt_tokens": 10, "output_tokens": 4})
    told: list[int] = []

    predict(requests, one_at_a_time(), on_progress=told.append)

    assert max(told) >= 1


def test_the_client_sees_its_overhead_on_top() -> None:
    requests = pd.DataFrame({"arrival_s": [0.0], "prompt_tokens": 10, "output_tokens": 4})
    server = one_at_a_time()
    far_away = server.model_copy(update={"client": server.client.model_copy(update={"overhead_s": 0.25})})

    predicted = predict(requests, far_away)

    assert predicted[["sim_ttft_s", "sim_e2e_s"]].iloc[0].tolist() == pytest.approx([1.25, 4.25])
