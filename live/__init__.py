"""A real vLLM pool: what talks to servers over HTTP, reads their metrics, and starts and stops them."""

from .client import Call, Client, Outcome, RequestError, ServerError
from .launch import LaunchError, VllmServer
from .metrics import CacheConfig, Gauges, MetricsError, parse_cache_config, parse_gauges, parse_iteration_tokens
from .server_facts import ServerFacts, read_facts, round_trip_s

__all__ = [
    "CacheConfig",
    "Call",
    "Client",
    "Gauges",
    "LaunchError",
    "MetricsError",
    "Outcome",
    "RequestError",
    "ServerError",
    "ServerFacts",
    "VllmServer",
    "parse_cache_config",
    "parse_gauges",
    "parse_iteration_tokens",
    "read_facts",
    "round_trip_s",
]
