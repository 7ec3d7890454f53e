"""Reading ``/metrics``: what vLLM 0.32.0 shows, in both spellings, and what is not vLLM's."""

import math

import pytest

from inframind.live import CacheConfig, Gauges, MetricsError, parse_cache_config, parse_gauges, parse_iteration_tokens

VLLM_0_32 = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79526441458e+09
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smollm2"} 7.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="smollm2"} 3.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2",reason="capacity"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smollm2",reason="deferred"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="smollm2"} 0.0275
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",enable_prefix_caching="True",engine="0",num_gpu_blocks="364"} 1.0
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_sum{engine="0",model_name="smollm2"} 7.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="smollm2"} 3.0
vllm:iteration_tokens_total_bucket{engine="0",le="8.0",model_name="smollm2"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="smollm2"} 4.0
vllm:iteration_tokens_total_count{engine="0",model_name="smollm2"} 4.0
"""
"""Lines of a real server."""

in_both_spellings = pytest.mark.parametrize("text", [VLLM_0_32, VLLM_0_32.replace("vllm:", "vllm_")])


@in_both_spellings
def test_the_gauges_are_read(text: str) -> None:
    assert parse_gauges(text) == Gauges(waiting=3, running=7, kv_usage=0.0275, process_start_s=1795264414.58)


@in_both_spellings
def test_the_cache_config_is_read(text: str) -> None:
    assert parse_cache_config(text) == CacheConfig(
        num_engines=1, num_gpu_blocks=364, block_size=128, enable_prefix_caching=True
    )


@in_both_spellings
def test_the_steps_are_counted_by_their_tokens(text: str) -> None:
    assert parse_iteration_tokens(text) == {1.0: 3.0, 8.0: 4.0, math.inf: 4.0}


def test_engines_are_added_up() -> None:
    """Two engines in one server: 7 + 7 running, the mean of their usage; each tells the blocks of both."""
    lines = [line for line in VLLM_0_32.splitlines() if not line.startswith("#")]
    second = [line.replace('engine="0"', 'engine="1"') for line in lines]
    text = "\n".join(lines + second)

    assert parse_gauges(text).running == 14
    assert parse_gauges(text).kv_usage == pytest.approx(0.0275)
    assert parse_iteration_tokens(text)[8.0] == 8.0
    assert parse_cache_config(text) == CacheConfig(
        num_engines=2, num_gpu_blocks=182, block_size=128, enable_prefix_caching=True
    )


def without(name: str) -> str:
    return "\n".join(line for line in VLLM_0_32.splitlines() if not line.startswith(name))


def test_missing_gauges_are_named() -> None:
    with pytest.raises(MetricsError) as error:
        parse_gauges(without("vllm:num_requests_waiting").replace("kv_cache_usage_perc", "gpu_cache_usage_perc"))

    assert str(error.value).startswith("/metrics lacks vllm:num_requests_waiting, vllm:kv_cache_usage_perc;")


def test_a_gauge_with_a_longer_name_is_not_taken_for_it() -> None:
    """``num_requests_waiting_by_reason`` begins like ``num_requests_waiting``."""
    with pytest.raises(MetricsError, match="vllm:num_requests_waiting;"):
        parse_gauges(without("vllm:num_requests_waiting{"))


def test_missing_cache_config_is_named() -> None:
    with pytest.raises(MetricsError, match="lacks vllm:cache_config_info"):
        parse_cache_config(without("vllm:cache_config_info"))


def test_a_cache_config_without_blocks_is_refused() -> None:
    with pytest.raises(MetricsError, match="'num_gpu_blocks': 'None'"):
        parse_cache_config(VLLM_0_32.replace('"364"', '"None"'))


def test_what_the_server_does_not_tell_is_not_made_up() -> None:
    assert math.isnan(parse_gauges(without("process_start")).process_start_s)
    assert parse_cache_config(VLLM_0_32.replace("enable_prefix_caching", "x")).enable_prefix_caching is None
    assert parse_iteration_tokens(without("vllm:iteration")) == {}


@pytest.mark.parametrize("text", ["", "<html>502 Bad Gateway</html>", "vllm:num_requests_running{engine= x 7\n"])
def test_garbage_is_no_metrics(text: str) -> None:
    with pytest.raises(MetricsError, match=r"^/metrics"):
        parse_gauges(text)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
@pytest.mark.parametrize("name", ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"])
def test_a_gauge_that_is_no_number_is_no_gauge(name: str, value: str) -> None:
    lines = [line for line in VLLM_0_32.splitlines() if not line.startswith(f"vllm:{name}{{")]

    with pytest.raises(MetricsError, match=rf"^/metrics: vllm:{name} is no number: (nan|-?inf)$"):
        parse_gauges("\n".join([*lines, f'vllm:{name}{{engine="0"}} {value}']))


@pytest.mark.parametrize("labels", ['engine="0"', 'engine="0",le="many"'])
def test_a_bucket_without_a_bound_is_refused(labels: str) -> None:
    with pytest.raises(MetricsError, match="vllm:iteration_tokens_total_bucket lacks a bound"):
        parse_iteration_tokens(f"vllm:iteration_tokens_total_bucket{{{labels}}} 3.0\n")
