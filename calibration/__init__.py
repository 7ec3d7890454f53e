"""From measurements to server files: fit the simulator's parameters."""

from .check import LoadCheck, LogCheck, MetricCheck, check_logs
from .check_document import as_document, headline
from .check_inputs import read_logs
from .check_statistics import STATISTICS, Comparison, Interval, Spread, bootstrap, compare, repeat_spread, statistics
from .fit import Fit, LogQuality, fit_server, fitted_toml
from .fit_range import extrapolations
from .pool_file import write_pool
from .pool_models import MEMBERS, Architecture, Member, num_gpu_blocks
from .pool_recipes import RECIPES, build_pool, correct, fit_members
from .predict import as_client_sees, predict
from .profile import ProfileOptions, ProfileReport, profile_server, record_loads
from .profile_plan import Ask, Condition
from .profile_server_file import Stated
from .step_fit import (
    MeasuredStep,
    RelativeErrors,
    decode_step,
    fit_step_time,
    predict_s,
    prefill_step,
    relative_errors,
)
from .step_profiles import StepProfile, read_step_profiles

__all__ = [
    "MEMBERS",
    "RECIPES",
    "STATISTICS",
    "Architecture",
    "Ask",
    "Comparison",
    "Condition",
    "Fit",
    "Interval",
    "LoadCheck",
    "LogCheck",
    "LogQuality",
    "MeasuredStep",
    "Member",
    "MetricCheck",
    "ProfileOptions",
    "ProfileReport",
    "RelativeErrors",
    "Spread",
    "Stated",
    "StepProfile",
    "as_client_sees",
    "as_document",
    "bootstrap",
    "build_pool",
    "check_logs",
    "compare",
    "correct",
    "decode_step",
    "extrapolations",
    "fit_members",
    "fit_server",
    "fit_step_time",
    "fitted_toml",
    "headline",
    "num_gpu_blocks",
    "predict",
    "predict_s",
    "prefill_step",
    "profile_server",
    "read_logs",
    "read_step_profiles",
    "record_loads",
    "relative_errors",
    "repeat_spread",
    "statistics",
    "write_pool",
]
