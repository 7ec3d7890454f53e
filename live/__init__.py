"""A real vLLM pool: what talks to servers over HTTP, reads their metrics, and starts and stops them."""

from .asks import Ask, ExactLengths, ask_text
from .checks import Checked, Expected, check_pool, check_server, wait_until_idle
from .client import AccessError, Call, Client, Outcome, RequestError, ServerError
from .launch import LaunchError, VllmServer, wait_until_healthy
from .metrics import CacheConfig, Gauges, MetricsError, parse_cache_config, parse_gauges, parse_iteration_tokens
from .pool import Launch, running_pool
from .pool_server import PoolServer
from .replay import Endpoint, ReplayOptions, RunView, ServerView, replay_live
from .run_log import RunLog, resumed
from .run_tables import RunTables, graded, run_tables
from .server_facts import ServerFacts, read_facts, round_trip_s
from .workflow_driver import CallEnd, DrivenServer, Poll, WorkflowDriver

__all__ = [
    "AccessError",
    "Ask",
    "CacheConfig",
    "Call",
    "CallEnd",
    "Checked",
    "Client",
    "DrivenServer",
    "Endpoint",
    "ExactLengths",
    "Expected",
    "Gauges",
    "Launch",
    "LaunchError",
    "MetricsError",
    "Outcome",
    "Poll",
    "PoolServer",
    "ReplayOptions",
    "RequestError",
    "RunLog",
    "RunTables",
    "RunView",
    "ServerError",
    "ServerFacts",
    "ServerView",
    "VllmServer",
    "WorkflowDriver",
    "ask_text",
    "check_pool",
    "check_server",
    "graded",
    "parse_cache_config",
    "parse_gauges",
    "parse_iteration_tokens",
    "read_facts",
    "replay_live",
    "resumed",
    "round_trip_s",
    "run_tables",
    "running_pool",
    "wait_until_healthy",
    "wait_until_idle",
]
