from dataclasses import replace

import numpy as np
import pytest

from inframind.calibration import MeasuredStep, decode_step, fit_step_time, predict_s, prefill_step, relative_errors
from inframind.calibration.step_fit import PARAMETERS
from inframind.sim.server_file import StepTimeSection
from inframind.sim.step_time import StepTime
from inframind.sim.vllm_0_32 import Step

TRUE = StepTimeSection(
    fixed_s=0.02,
    prefill_token_s=6e-5,
    decode_s=4e-5,
    context_token_s=7e-8,
    prefill_pair_s=2e-9,
    free_prefill_tokens=150,
)
BATCHES = [
    *(prefill_step(1, num, tokens) for num, tokens in [(1, 64), (1, 256), (1, 1024), (1, 4096), (4, 1024), (4, 2048)]),
    *(decode_step(1, num, context) for num in (1, 4, 16, 64, 256) for context in (256, 1024, 4096)),
]


def measured(step_time: StepTimeSection, batches: list[MeasuredStep] = BATCHES) -> list[MeasuredStep]:
    """These batches, as long as ``step_time`` says."""
    seconds = predict_s(batches, step_time).tolist()
    return [replace(batch, seconds=value) for batch, value in zip(batches, seconds, strict=True)]


def values(step_time: StepTimeSection) -> list[float]:
    return [getattr(step_time, name) for name in PARAMETERS]


def test_a_prefill_step_counts_tokens_context_and_causal_pairs() -> None:
    step = prefill_step(0.5, num_prompts=2, prompt_tokens=3)

    assert step == MeasuredStep(0.5, prefill_tokens=6, num_decodes=0, context_tokens=6, prefill_pairs=2 * (1 + 2 + 3))


def test_a_decode_step_counts_requests_and_their_context() -> None:
    step = decode_step(0.5, num_decodes=2, context_tokens_each=10.5)

    assert step == MeasuredStep(0.5, prefill_tokens=0, num_decodes=2, context_tokens=21, prefill_pairs=0)


def test_a_prediction_is_what_the_simulator_takes() -> None:
    measured_step = MeasuredStep(1, prefill_tokens=100, num_decodes=3, context_tokens=500, prefill_pairs=5050)
    step = Step()
    step.prefill_tokens, step.num_decodes, step.context_tokens, step.prefill_pairs = 100, 3, 500, 5050
    by_simulator = StepTime(**TRUE.model_dump(exclude={"std_error", "fitted_on"})).seconds(step)

    assert predict_s([measured_step], TRUE) == pytest.approx([by_simulator], rel=1e-12)
    assert by_simulator == pytest.approx(0.02 + 0.00012 + 0.000035 + 0.0000101)


def test_only_prefill_tokens_beyond_the_free_ones_take_time() -> None:
    steps = [prefill_step(1, 1, 150), prefill_step(1, 1, 151), prefill_step(1, 2, 151)]

    beyond = predict_s(steps, TRUE.model_copy(update={"context_token_s": 0.0, "prefill_pair_s": 0.0}))

    assert beyond == pytest.approx([0.02, 0.02 + 6e-5, 0.02 + 152 * 6e-5], rel=1e-12)


@pytest.mark.parametrize("free_prefill_tokens", [0, 1, 63, 64, 150, 700])
def test_known_parameters_are_found_again(free_prefill_tokens: int) -> None:
    true = TRUE.model_copy(update={"free_prefill_tokens": free_prefill_tokens})
    steps = measured(true)

    fitted = fit_step_time(steps, source="made up", licence="CC0-1.0")

    assert fitted.free_prefill_tokens == free_prefill_tokens
    assert values(fitted) == pytest.approx(values(true), rel=1e-6)
    assert all(fitted.std_error[name] < 1e-6 * getattr(TRUE, name) for name in PARAMETERS)
    assert fitted.fitted_on is not None
    assert (fitted.fitted_on.source, fitted.fitted_on.licence) == ("made up", "CC0-1.0")
    assert fitted.fitted_on.num_points == 21
    assert fitted.fitted_on.error_p95 < 1e-9
    assert fitted.fitted_on.max_prefill_tokens == 8192
    assert fitted.fitted_on.max_num_decodes == 256
    assert fitted.fitted_on.max_context_tokens == 256 * 4096


def test_the_standard_error_is_the_spread_over_repeated_measurements() -> None:
    rng = np.random.default_rng(0)
    steps = measured(TRUE)
    usual = [step for step in steps if step.is_usual]  # equal weights: the noise is as the fit takes it to be
    noise = rng.normal(1, 0.02, (200, len(usual)))
    fits = [
        fit_step_time([replace(step, seconds=step.seconds * factor) for step, factor in zip(usual, row, strict=True)])
        for row in noise.tolist()
    ]

    for name in PARAMETERS:
        spread = np.std([getattr(fit, name) for fit in fits])
        stated = np.sqrt(np.mean([fit.std_error[name] ** 2 for fit in fits]))
        assert stated == pytest.approx(spread, rel=0.2), name


@pytest.mark.parametrize("rare", [prefill_step(0.05, 1, 64), decode_step(0.07, 128, 1024)])
def test_a_step_that_servers_rarely_run_counts_a_tenth(rare: MeasuredStep, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [step for step in measured(TRUE) if step.is_usual]
    ten_times = values(fit_step_time([*usual, *[rare] * 10]))
    monkeypatch.setattr("inframind.calibration.step_fit.UNUSUAL_WEIGHT", 1.0)
    once_in_full = values(fit_step_time([*usual, rare]))

    assert not rare.is_usual
    assert ten_times == pytest.approx(once_in_full, rel=1e-9)
    assert ten_times != pytest.approx(values(TRUE), rel=0.01)


def test_a_parameter_at_its_bound_is_zero_and_has_the_size_that_is_not_ruled_out() -> None:
    """Prefills that get cheaper per pair would want a negative time."""
    base = TRUE.model_copy(update={"prefill_pair_s": 0.0})
    steps = [
        replace(step, seconds=step.seconds * (0.9 if step.prefill_tokens == 4096 and step.prefill_pairs > 5e6 else 1))
        for step in measured(base)
    ]

    fitted = fit_step_time(steps)

    assert fitted.prefill_pair_s == 0
    assert 0 < fitted.std_error["prefill_pair_s"] < 1e-8


def test_without_a_time_per_prefill_token_none_is_free_and_that_has_no_standard_error() -> None:
    """Each prefill token takes a microsecond less than none at all."""
    base = TRUE.model_copy(update={"prefill_token_s": 0.0})
    steps = [replace(step, seconds=step.seconds - 1e-6 * step.prefill_tokens) for step in measured(base)]

    fitted = fit_step_time(steps)

    assert (fitted.prefill_token_s, fitted.free_prefill_tokens) == (0, 0)
    assert set(fitted.std_error) == set(PARAMETERS) - {"free_prefill_tokens"}


def test_one_context_length_does_not_determine_three_parameters() -> None:
    steps = measured(TRUE, [*BATCHES[:6], *(decode_step(1, num, 512) for num in (1, 2, 4, 8, 16))])

    with pytest.raises(ValueError, match="do not determine prefill_token_s, decode_s, context_token_s: there must be"):
        fit_step_time(steps)


def test_two_context_lengths_that_hardly_differ_leave_a_large_standard_error() -> None:
    rng = np.random.default_rng(0)
    batches = [*BATCHES[:6], *(decode_step(1, num, context) for num in (1, 4, 16, 64) for context in (500, 520))]
    steps = [replace(step, seconds=step.seconds * rng.normal(1, 0.01)) for step in measured(TRUE, batches)]

    fitted = fit_step_time(steps)

    assert fitted.std_error["context_token_s"] > TRUE.context_token_s
    assert fitted.std_error["fixed_s"] < 0.05 * TRUE.fixed_s


def test_a_phase_without_steps_is_named_by_its_parameter() -> None:
    """Without decodes, the context of whole prompts is their tokens once more, and free tokens are a shorter step."""
    only_prefills = [*BATCHES[:6], prefill_step(1, 2, 512)]
    with pytest.raises(
        ValueError, match="determine fixed_s, prefill_token_s, decode_s, context_token_s, free_prefill_tokens:"
    ):
        fit_step_time(measured(TRUE, only_prefills))
    with pytest.raises(ValueError, match="determine prefill_token_s, prefill_pair_s, free_prefill_tokens:"):
        fit_step_time(measured(TRUE, BATCHES[6:]))


def test_two_prefill_lengths_do_not_determine_three_parameters() -> None:
    two_lengths = [prefill_step(1, 1, 512), prefill_step(1, 1, 2048), *BATCHES[6:]]

    with pytest.raises(ValueError, match="determine prefill_token_s, prefill_pair_s, free_prefill_tokens: there must"):
        fit_step_time(measured(TRUE, two_lengths))


def test_prefills_of_more_than_one_length_are_beyond_the_free_tokens() -> None:
    """One alone, here that of 1024 tokens, would be met by the time per token whatever number is free."""
    true = TRUE.model_copy(update={"free_prefill_tokens": 700})
    prefills = [prefill_step(1, 1, tokens) for tokens in (256, 512, 1024)]

    assert fit_step_time(measured(true, [*prefills, *BATCHES[6:]])).free_prefill_tokens == 511
    assert fit_step_time(measured(true, [*prefills, prefill_step(1, 1, 2048), *BATCHES[6:]])).free_prefill_tokens == 700


def test_six_steps_are_too_few() -> None:
    with pytest.raises(ValueError, match="6 parameters need at least 7 steps, got 6"):
        fit_step_time(measured(TRUE, BATCHES[:6]))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_takes_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="greater than 0 and finite"):
        fit_step_time([*measured(TRUE), replace(BATCHES[0], seconds=seconds)])


def test_an_empty_step_takes_time() -> None:
    steps = [replace(step, seconds=1e-5 * (step.prefill_tokens + step.num_decodes) ** 1.2) for step in BATCHES]

    with pytest.raises(ValueError, match="fixed_s came out as 0"):
        fit_step_time(steps)


def test_errors_are_relative_and_apart_by_phase() -> None:
    only_fixed = StepTimeSection(fixed_s=1, prefill_token_s=0, decode_s=0)
    steps = [prefill_step(2, 1, 300), prefill_step(0.5, 1, 100), decode_step(1, 1, 9), decode_step(0.8, 100, 9)]

    errors = relative_errors(steps, only_fixed)
    usual = relative_errors(steps, only_fixed, only_usual=True)

    assert (errors["prefill"].num_steps, errors["prefill"].p50, errors["prefill"].max) == (2, 0.75, 1)
    assert errors["decode"].num_steps == 2
    assert errors["decode"].max == pytest.approx(0.25)
    assert (usual["prefill"].num_steps, usual["prefill"].max) == (1, 0.5)
    assert (usual["decode"].num_steps, usual["decode"].max) == (1, 0)
    assert set(relative_errors(steps[:2], only_fixed)) == {"prefill"}
