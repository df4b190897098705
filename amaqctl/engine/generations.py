"""Key-value caches of cached generation: a number names those of one generation, at every party."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from amaqctl.engine.stage import Stage


class Generations:
    """The caches of the stages held here.

    Args:
        stages: by index.
    """

    def __init__(self, stages: Mapping[int, Stage]) -> None:
        self._stages = stages
        self._caches: dict[int, dict[int, Any]] = {}
        self._num_begun = 0

    @contextlib.contextmanager
    def new(self) -> Iterator[int]:
        """A number for a generation that begins here; its caches are freed in the end."""
        self._num_begun += 1
        number = self._num_begun
        try:
            yield number
        finally:
            self.forget(number)

    def caches(self, generation: int | None) -> dict[int, Any] | None:
        """Those of a generation, by stage, made at its first look; None: no generation."""
        if generation is None:
            return None
        if generation not in self._caches:
            # One at a time: a leader that never says that it is done costs no memory.
            new = {index: stage.model.new_cache() for index, stage in self._stages.items()}
            self._caches = {generation: new}
        return self._caches[generation]

    def forget(self, generation: int) -> None:
        """Free the caches of a generation."""
        self._caches.pop(generation, None)
