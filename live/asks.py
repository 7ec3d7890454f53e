"""What is sent to a server for a call that the controller has submitted."""

import hashlib
from collections.abc import Callable, Hashable
from typing import TypeAlias

import numpy as np

from inframind.workflows import Submit

from .client import Call

Ask: TypeAlias = Callable[[Submit], Call]

TOKEN_IDS = (1000, 30_000)
"""Ids for prompts: beyond the special ones of usual tokenizers, within the smallest usual vocabulary."""


def ask_text(submit: Submit) -> Call:
    """The prompt's text as one message of a user; the model ends where it wants to."""
    return Call(submit.prompt.text or "", submit.max_tokens, submit.priority, is_exact=False, is_chat=True)


class ExactLengths:
    """Prompts and outputs of exactly the simulator's lengths.

    A prompt is drawn token ids: the same for the same part of a prompt, so that the server's prefix cache finds what
    the simulated one finds.

    Parameters
    ----------
    output_tokens
        Length of a call's output.
    salt
        Another one makes other tokens: a second run must not find those of the first in the prefix cache.
    """

    def __init__(self, output_tokens: Callable[[Submit], int], salt: int) -> None:
        self._output_tokens = output_tokens
        self._salt = salt

    def __call__(self, submit: Submit) -> Call:
        """The call to make."""
        ids: list[int] = []
        for key, end in submit.prompt.prefix:
            ids += self._drawn(key, end - len(ids))
        return Call(ids, self._output_tokens(submit), submit.priority)

    def _drawn(self, key: Hashable, number: int) -> list[int]:
        digest = hashlib.blake2b(repr((self._salt, key)).encode(), digest_size=8).digest()
        drawn: list[int] = np.random.default_rng(int.from_bytes(digest)).integers(*TOKEN_IDS, number).tolist()
        return drawn
