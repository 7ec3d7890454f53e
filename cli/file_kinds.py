"""Which command a TOML file is for."""

import tomllib
from collections.abc import Set
from pathlib import Path

from inframind.agents import Evaluation
from inframind.traces import ConfigError

from .experiment import Experiment

_COMMANDS = {
    "simulate": "`inframind simulate` without --policy and --all",
    "evaluate": "`inframind evaluate`, or of `simulate` and `live replay` with --policy NAME or --all",
    "train": "`inframind train`",
}


def check_kind(path: Path, command: str) -> None:
    """Find out whether a file is plainly meant for another command: that is one mistake, not one for each key.

    A file that cannot be read is left to who reads it in earnest.

    Raises
    ------
    ConfigError
        It has keys that this command does not know, and another command knows all of them.
    """
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError):
        return
    if not keys <= _known(command):
        for other, words in _COMMANDS.items():
            if keys <= _known(other):
                raise ConfigError(path, [f"is a file of {words}"])


def _known(command: str) -> Set[str]:
    if command == "train":
        # It loads PyTorch: not before it is asked for.
        from inframind.agents.training_file import Training

        return Training.model_fields.keys()
    return (Experiment if command == "simulate" else Evaluation).model_fields.keys()
