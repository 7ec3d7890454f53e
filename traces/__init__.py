"""The data layer: what was asked, what was decided, what happened."""

from .arrivals import RATES_PER_MIN, Arrivals, Client, Clients, Gamma, Microburst, Poisson, Sustained
from .containers import check_commas, wrong_separator
from .lengths import Constant, Empirical, Length, LogNormal, Uniform
from .mistakes import ConfigError, Mistakes, TraceError
from .readers import FORMATS, MOONCAKE_BLOCK_TOKENS, Format, RequestLog, read_log, read_requests
from .run_folder import Run, begin_run, check_replaceable, find_runs, finish_run, read_run, versions, write_run
from .same_config import check_same_config
from .schema import CALLS, REQUESTS, SAMPLES, WORKFLOWS, to_table
from .summary import SUMMARY, by_tier, summarise
from .typed_files import NotEmpty, Section, load_json, load_toml
from .whole import whole_folder, write_whole
from .workload import Budgets, SyntheticWorkload, TraceWorkload, Workload, build_requests

__all__ = [
    "CALLS",
    "FORMATS",
    "MOONCAKE_BLOCK_TOKENS",
    "RATES_PER_MIN",
    "REQUESTS",
    "SAMPLES",
    "SUMMARY",
    "WORKFLOWS",
    "Arrivals",
    "Budgets",
    "Client",
    "Clients",
    "ConfigError",
    "Constant",
    "Empirical",
    "Format",
    "Gamma",
    "Length",
    "LogNormal",
    "Microburst",
    "Mistakes",
    "NotEmpty",
    "Poisson",
    "RequestLog",
    "Run",
    "Section",
    "Sustained",
    "SyntheticWorkload",
    "TraceError",
    "TraceWorkload",
    "Uniform",
    "Workload",
    "begin_run",
    "build_requests",
    "by_tier",
    "check_commas",
    "check_replaceable",
    "check_same_config",
    "find_runs",
    "finish_run",
    "load_json",
    "load_toml",
    "read_log",
    "read_requests",
    "read_run",
    "summarise",
    "to_table",
    "versions",
    "whole_folder",
    "write_run",
    "write_whole",
    "wrong_separator",
]
