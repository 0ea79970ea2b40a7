"""What a plan was asked so far, as Triton's statistics extension has it.  No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from collab.client.runner import Result

CALL_PARTS: Final = ("success", "fail")
"""Counted for each call, however many requests it is."""
PARTS: Final = ("queue", "compute_input", "compute_infer", "compute_output")
"""Counted for each request that was answered; what they leave of the whole is the network."""
_ALONE: Final = 1
"""Requests of an execution: on the wire there is no batch."""


class Statistics:
    """Counts and cumulative times of one plan at one server, since the plan was offered."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys((*CALL_PARTS, *PARTS), 0)
        self._ns = dict.fromkeys((*CALL_PARTS, *PARTS), 0)
        self._last_ms = 0

    def ended(self, part: str, elapsed_s: float, now_s: float) -> None:
        """A call succeeded or failed; ``now_s`` is in seconds since 1970."""
        self._add(part, int(elapsed_s * 1e9))
        self._last_ms = int(now_s * 1000)

    def answered(self, waited_s: float, result: Result) -> None:
        """A request was answered, which had to wait for a credit first."""
        hops = result.hops
        self._add("queue", int(waited_s * 1e9) + 1000 * sum(hop.queue_us for hop in hops))
        self._add("compute_input", int(result.encode_ms * 1e6) + 1000 * sum(hop.decode_us for hop in hops))
        self._add("compute_infer", 1000 * sum(hop.compute_us for hop in hops))
        self._add("compute_output", int(result.decode_ms * 1e6) + 1000 * sum(hop.encode_us for hop in hops))

    def _add(self, part: str, elapsed_ns: int) -> None:
        self._counts[part] += 1
        self._ns[part] += elapsed_ns

    def told(self) -> dict[str, Any]:
        """Fields of the extension's `ModelStatistics` but for name and version."""
        parts: Mapping[str, Any] = {
            part: {"count": count, "ns": self._ns[part]} for part, count in self._counts.items()
        }
        requests = self._counts["compute_infer"]
        alone = {"batch_size": _ALONE, **{part: parts[part] for part in PARTS if part != "queue"}}
        return {
            "last_inference": self._last_ms,
            "inference_count": requests,
            "execution_count": requests,
            "inference_stats": parts,
            "batch_stats": [alone] if requests else [],
        }
