"""An asyncio loop whose time jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable


class _NoWait(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0 and not self.loop.end_instant() and timeout:
            self.loop.skip(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs as fast as it can; ``time()`` is exact for times that floats hold exactly."""

    def __init__(self) -> None:
        selector = _NoWait()
        selector.loop = self
        self._virtual = 0.0
        self._at_end: list[Callable[[], None]] = []
        super().__init__(selector)
        self._clock_resolution = 1e-12

    def time(self) -> float:
        return self._virtual

    def skip(self, seconds: float) -> None:
        self._virtual += seconds

    def call_at_end_of_instant(self, function: Callable[[], None]) -> None:
        """Call it when nothing more is to be done at this instant, which goes on then."""
        self._at_end.append(function)

    def end_instant(self) -> bool:
        """Whether something waited for it."""
        functions, self._at_end = self._at_end, []
        for function in functions:
            self.call_soon(function)
        return bool(functions)
