"""A circuit breaker: a model that fails repeatedly gets only a probe now and then, until one succeeds."""

PROBE_S = 0.25
"""While it is open, a request is let through this often."""
OPEN_SHARE, _WEIGHT = 0.4, 0.1
"""It opens when this share of recent outcomes are failures: five in a row, or half of many."""


class CircuitBreaker:
    """Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self.is_open = False
        self._share = 0.0
        self._probe_at = 0.0

    def allow_request(self, now: float) -> bool:
        """Return True if a request may be sent to the model. While the breaker is open, that request is the probe."""
        if not self.is_open:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + PROBE_S
        return True

    def would_allow(self, now: float) -> bool:
        """Return the same as `allow_request`, without using up the probe."""
        return not self.is_open or now >= self._probe_at

    def record_success(self) -> None:
        if self.is_open:
            self.is_open, self._share = False, 0.0
        else:
            self._share -= _WEIGHT * self._share

    def record_failure(self, now: float, *, pause_s: float = PROBE_S) -> None:
        """
        Args:
            pause_s: Least time until the next probe.
        """
        self._share += _WEIGHT * (1 - self._share)
        if not self.is_open and self._share > OPEN_SHARE:
            self.is_open = True
        if self.is_open:
            self._probe_at = max(self._probe_at, now + pause_s)
