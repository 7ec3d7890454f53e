"""From measurements to server files: fit the simulator's parameters."""

from .check import LoadCheck, LogCheck, MetricCheck, check_logs
from .check_document import as_document, headline
from .check_inputs import of_server, read_logs
from .check_statistics import STATISTICS, Comparison, Interval, Spread, bootstrap, compare, repeat_spread, statistics
from .compare_decisions import Agreement, DecisionFigures, Decisions
from .compare_document import comparison_document, count_signs, figure_name, headlines
from .compare_figures import LatencyFigures, ServerFigures, ShareFigures, TierFigures
from .compare_folders import ConditionComparison, FoldersComparison, compare_folders
from .compare_inputs import KnownRun, PairedRuns
from .compare_ranking import Contest, PairSign, Ranking
from .compare_sources import STEPS, Difference, LoadBin, Measures, Sources
from .fit import fit_server
from .fit_range import extrapolations
from .fit_result import Fit, LogQuality, fitted_toml
from .pool_file import write_pool
from .pool_models import MEMBERS, Architecture, Member, num_gpu_blocks
from .pool_recipes import RECIPES, build_pool, correct, fit_members
from .predict import Prediction, as_client_sees, predict, replay
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
    "STEPS",
    "Agreement",
    "Architecture",
    "Ask",
    "Comparison",
    "Condition",
    "ConditionComparison",
    "Contest",
    "DecisionFigures",
    "Decisions",
    "Difference",
    "Fit",
    "FoldersComparison",
    "Interval",
    "KnownRun",
    "LatencyFigures",
    "LoadBin",
    "LoadCheck",
    "LogCheck",
    "LogQuality",
    "MeasuredStep",
    "Measures",
    "Member",
    "MetricCheck",
    "PairSign",
    "PairedRuns",
    "Prediction",
    "ProfileOptions",
    "ProfileReport",
    "Ranking",
    "RelativeErrors",
    "ServerFigures",
    "ShareFigures",
    "Sources",
    "Spread",
    "Stated",
    "StepProfile",
    "TierFigures",
    "as_client_sees",
    "as_document",
    "bootstrap",
    "build_pool",
    "check_logs",
    "compare",
    "compare_folders",
    "comparison_document",
    "correct",
    "count_signs",
    "decode_step",
    "extrapolations",
    "figure_name",
    "fit_members",
    "fit_server",
    "fit_step_time",
    "fitted_toml",
    "headline",
    "headlines",
    "num_gpu_blocks",
    "of_server",
    "predict",
    "predict_s",
    "prefill_step",
    "profile_server",
    "read_logs",
    "read_step_profiles",
    "record_loads",
    "relative_errors",
    "repeat_spread",
    "replay",
    "statistics",
    "write_pool",
]
