"""When a worker that has failed is started again, if at all. No I/O and no clock: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from sb3_nigt.validation import check_integer

FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 10.0  # seconds before a restart, doubled while a worker keeps failing
WINDOW = 60.0  # seconds over which the rate is counted


@dataclass(frozen=True)
class RestartLimits:
    """
    How often one worker may be restarted; beyond either limit it is lost.

    :param max_restarts: restarts in its whole life
    :param max_restarts_per_minute: restarts within any 60 seconds; None: no limit
    :raises ValueError: if one of them is not a number of restarts
    """

    max_restarts: int
    max_restarts_per_minute: int | None = None

    def __post_init__(self) -> None:
        check_integer("max_restarts", self.max_restarts, 0)
        if self.max_restarts_per_minute is not None:
            check_integer("max_restarts_per_minute", self.max_restarts_per_minute, 0)


@dataclass
class RestartHistory:
    """
    The failures of one worker.

    :param limits: the limits beyond which it is lost
    :ivar failures: number of failures in its whole life
    :ivar broken: name of the limit that it has exceeded, or None
    """

    limits: RestartLimits
    failures: int = 0
    broken: str | None = None
    _in_a_row: int = 0
    _recent: list[float] = field(default_factory=list)

    def failed(self, now: float) -> float | None:
        """
        Take in a failure.

        :param now: seconds on any clock that does not jump
        :return: the time of the restart; None if there will be none
        """
        self.failures += 1
        self._in_a_row += 1
        self._recent = [*(time for time in self._recent if now - time < WINDOW), now]
        in_all, per_minute = self.limits.max_restarts, self.limits.max_restarts_per_minute
        if self.failures > in_all:
            self.broken = f"max_restarts={in_all}"
        elif per_minute is not None and len(self._recent) > per_minute:
            self.broken = f"max_restarts_per_minute={per_minute}"
        if self.broken is not None:
            return None
        # the exponent is bounded, since 2.0**1024 is an error
        return now + min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._in_a_row - 1, 10))

    def succeeded(self) -> None:
        """Take in a success: the next failure is followed by the shortest wait again. The limits go on counting."""
        self._in_a_row = 0
