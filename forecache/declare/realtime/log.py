"""The declaration of the request log of a real-time model."""

from dataclasses import dataclass
from typing import cast

from forecache.declare.checks.fields import check_fields, check_least, check_value


@dataclass(frozen=True)
class Log:
    """The request log of a real-time model: a row for each answer, in the lake's table `request_log_<name>`.

    Attributes:
        by: Request fields that together are the key. The key's hash decides whether a request is logged, so that all
            requests of a key are in the log, or none. A single name may be given as a text.
        sample: Share of the keys that are logged, above 0 and at most 1.
        keep_days: Days after which logged requests are removed.
    """

    by: tuple[str, ...]
    sample: float = 1.0
    keep_days: int = 30

    def __post_init__(self) -> None:
        if isinstance(cast(object, self.by), str):
            object.__setattr__(self, "by", (self.by,))
        check_fields("`Log`", self)
        check_value("`Log`", "by", self.by, bool(self.by), "Name the request fields that hold the key.")
        check_value("`Log`", "sample", self.sample, 0 < self.sample <= 1, "Give a share above 0 and at most 1.")
        check_least("`Log`", self, 1, "keep_days")
