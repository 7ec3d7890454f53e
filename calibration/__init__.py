"""From measurements to server files: fit the simulator's parameters."""

from .default_pool import MEMBERS, Architecture, Member, default_pool, num_gpu_blocks, write_pool
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
    "Architecture",
    "MeasuredStep",
    "Member",
    "RelativeErrors",
    "StepProfile",
    "decode_step",
    "default_pool",
    "fit_step_time",
    "num_gpu_blocks",
    "predict_s",
    "prefill_step",
    "read_step_profiles",
    "relative_errors",
    "write_pool",
]
