"""Every metric, by Prometheus's conventions: base units, ``_total`` for what only grows."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple, Union

from collab.telemetry.histogram import Counts

OTHERS: Final = "(others)"
"""Label in place of a name that is not kept apart."""
CLIENTS: Final = "(clients)"
"""Label of all peers together that are not nodes: each of their processes has a new name."""

REFUSAL_CAUSES: Final = ("retired", "no_lease", "no_room", "hopeless", "not_loaded")
"""Counters of a node's session that say why work was refused; its others say what was dropped."""

TRAINING_CAUSES: Final = (
    *("not_set_up", "draining", "busy", "hangs", "energy", "not_idle", "on_battery", "metered", "hours"),
    "unsuited",
)
"""Why a node declines a federated order."""
TRIAL_PHASES: Final = ("shadow", "canary", "probation")
"""Of a new model in a plan."""
ROLLBACK_CAUSES: Final = ("health", "hand", "rollout", "sibling")
"""Why a plan went back to its former model: it failed on probation, a person, a rollout that goes back,
or another plan of the family on the device that did not take it."""


class Kind(Enum):
    """Types of OpenMetrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Metric(NamedTuple):
    """One family of series."""

    name: str
    """As it is exposed; a histogram's also with ``_bucket``, ``_sum`` and ``_count``."""
    kind: Kind
    labels: tuple[str, ...]
    text: str

    def at(self, *labels: str, value: Number | Counts = 1) -> Value:
        """One series."""
        assert len(labels) == len(self.labels)
        return Value(self, labels, value)


Number = Union[int, float]


class Value(NamedTuple):
    """What one series is now."""

    metric: Metric
    labels: tuple[str, ...]
    value: Number | Counts


_COUNTER, _GAUGE, _HISTOGRAM, _INFO = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM, Kind.INFO

# --- a node's ----------------------------------------------------------------------------

NODE_INFO = Metric("collab_node_info", _INFO, ("node", "version"), "The node and its software; always 1")
STATE = Metric("collab_node_state", _GAUGE, ("state",), "1 for the state that the node is in")
UPTIME = Metric("collab_uptime_seconds", _GAUGE, (), "Time since the node started")
PLAN_INFO = Metric(
    "collab_plan_info",
    _INFO,
    ("plan", "epoch", "state", "model_sha256", "release"),
    "Loaded epochs of plans, the model that each was cut from and its release, if it is one; always 1",
)
REQUESTS = Metric(
    "collab_requests_total",
    _COUNTER,
    ("plan", "outcome"),
    "Answers that the node's stages sent to requesters: ok, absent or failed",
)
FAILURES = Metric(
    "collab_failures_total", _COUNTER, ("plan", "cause"), "Those that failed, by the code of the error"
)
REQUEST_SECONDS = Metric(
    "collab_request_seconds",
    _HISTOGRAM,
    ("plan",),
    "Time in nodes on the critical path of what was answered, the network left out",
)
STAGE_SECONDS = Metric(
    "collab_stage_seconds",
    _HISTOGRAM,
    ("plan", "stage", "part"),
    "Time of one run of a stage, by part: queue, decode, compute, encode",
)
STAGE_FAILURES = Metric(
    "collab_stage_failures_total", _COUNTER, ("plan", "stage"), "Runs of a stage that ended with an error"
)
QUEUE = Metric("collab_queue_length", _GAUGE, ("plan", "stage"), "Jobs that wait for a stage's thread")
IN_FLIGHT = Metric("collab_in_flight", _GAUGE, ("plan",), "Attempts of which a stage waits or computes here")
CREDITS = Metric(
    "collab_credits", _GAUGE, ("plan", "kind"), "Admission credits at the plan's entry: all, leased, used"
)
REFUSALS = Metric("collab_refusals_total", _COUNTER, ("cause",), "Work refused, by cause")
DROPS = Metric("collab_dropped_total", _COUNTER, ("cause",), "Tokens and work dropped, by cause")
CODEC_RAW = Metric(
    "collab_codec_raw_bytes_total", _COUNTER, ("plan", "stage"), "Tensors that a stage sent, as raw"
)
CODEC_SENT = Metric(
    "collab_codec_sent_bytes_total", _COUNTER, ("plan", "stage"), "The same as they travelled"
)
CODEC_FALLBACKS = Metric(
    "collab_codec_fallbacks_total", _COUNTER, (), "Tensors that a lossy codec could not keep within its error"
)
QUARANTINED = Metric(
    "collab_quarantined_total",
    _COUNTER,
    ("plan", "stage", "member"),
    "Requests that a member of an ensemble was left out of",
)
LINK_BYTES = Metric(
    "collab_link_bytes_total",
    _COUNTER,
    ("peer", "transport", "direction"),
    "Bytes of messages carried by links, ended ones included: sent, received",
)
LINK_UP = Metric("collab_link_up", _GAUGE, ("peer", "transport"), "1 while a link lives, 0 while suspected")
LINK_RTT = Metric(
    "collab_link_round_trip_seconds",
    _GAUGE,
    ("peer", "transport"),
    "Smallest round trip that a link has seen",
)
LINK_QUEUED = Metric(
    "collab_link_queued_bytes", _GAUGE, ("peer", "transport"), "Bytes that wait to be sent on a link"
)
REPORTS = Metric("collab_reports_waiting", _GAUGE, (), "Answers given alone that nobody has taken yet")
REPORTS_DROPPED = Metric("collab_reports_dropped_total", _COUNTER, (), "Those that made room for newer ones")
ROUND = Metric("collab_training_round", _GAUGE, (), "Round of the latest federated order; absent before one")
CERTIFICATE = Metric(
    "collab_certificate_expiry_timestamp_seconds", _GAUGE, (), "When the node's certificate ends, Unix time"
)
TRAINING_DECLINED = Metric(
    "collab_training_declined_total",
    _COUNTER,
    ("cause",),
    "Federated orders that the node declined or gave up by its settings, by cause",
)
TRIAL = Metric(
    "collab_trial_phase", _GAUGE, ("plan", "phase"), "1 for the phase of a new model's trial in a plan"
)
SPANS_DROPPED = Metric("collab_spans_dropped_total", _COUNTER, (), "Spans that could not be exported")

STREAM_FRAMES = Metric(
    "collab_stream_frames_total",
    _COUNTER,
    ("plan", "stream", "outcome"),
    "Frames of the node's sources: answered, dropped or failed",
)
STREAM_WAITING = Metric("collab_stream_waiting", _GAUGE, ("plan", "stream"), "Frames that wait for the plan")
STREAM_UP = Metric(
    "collab_stream_up", _GAUGE, ("plan", "stream"), "1 while a stream runs and its source is there, else 0"
)
STREAM_SECONDS = Metric(
    "collab_stream_frame_seconds",
    _HISTOGRAM,
    ("plan", "stream"),
    "From a frame's arrival to its answer, waiting included",
)
STREAM_ANSWERS = Metric(
    "collab_stream_answers_total",
    _COUNTER,
    ("plan", "stream", "sink", "outcome"),
    "Answers to frames, by sink: delivered or lost",
)

# --- any process's -----------------------------------------------------------------------

MEMORY = Metric("process_resident_memory_bytes", _GAUGE, (), "Resident memory of the process")
CPU = Metric("process_cpu_seconds_total", _COUNTER, (), "Processor time of the process, user and system")
TEMPERATURE = Metric("collab_temperature_celsius", _GAUGE, ("zone",), "What the device's sensors say")

# --- a requester's -----------------------------------------------------------------------

CLIENT_REQUESTS = Metric(
    "collab_client_requests_total",
    _COUNTER,
    ("plan", "outcome", "via"),
    "Requests that ended at a requester: ok, absent, failed or withdrawn; via primary, alternative or local",
)
CLIENT_FAILURES = Metric(
    "collab_client_failures_total", _COUNTER, ("plan", "cause"), "Those that failed, by the code of the error"
)
CLIENT_SECONDS = Metric(
    "collab_client_request_seconds", _HISTOGRAM, ("plan",), "From the request to its answer, all included"
)
CLIENT_PARTS = Metric(
    "collab_client_part_seconds",
    _HISTOGRAM,
    ("plan", "part"),
    "Shares of it: nodes, encode and decode here, wire (estimated)",
)
CLIENT_ATTEMPTS = Metric(
    "collab_client_attempts_total", _COUNTER, ("plan",), "Attempts started for requests that were answered"
)

# --- of releases and federated runs: of whoever keeps their journals ----------------------

RELEASE_STATE = Metric(
    "collab_release_state",
    _GAUGE,
    ("plan", "state"),
    "1 for how the model that a plan runs stands: proven, probation, or to go back",
)
RELEASE_UPDATES = Metric(
    "collab_release_updates_total", _COUNTER, ("plan", "result"), "Updates of a plan that ended, by result"
)
ROLLBACKS = Metric(
    "collab_release_rollbacks_total",
    _COUNTER,
    ("plan", "cause"),
    "Times that a plan went back to its former model, by cause",
)
ROLLOUT_TARGETS = Metric(
    "collab_rollout_targets", _GAUGE, ("rollout", "status"), "Plans of a rollout, by what became of them"
)
ROLLOUT_PHASE = Metric("collab_rollout_phase", _GAUGE, ("rollout", "phase"), "1 for the phase of a rollout")
FED_ROUNDS = Metric(
    "collab_federated_rounds_total", _COUNTER, ("run", "outcome"), "Rounds of a run that ended, by outcome"
)
FED_LEFT_OUT = Metric(
    "collab_federated_left_out_total",
    _COUNTER,
    ("run", "cause"),
    "Clients that a round asked and left out: declined, failed, refused, late, skipped or quarantined",
)
FED_ROUND = Metric("collab_federated_round", _GAUGE, ("run",), "The last round of a run that ended")
FED_SCORE = Metric(
    "collab_federated_score", _GAUGE, ("run", "metric"), "What the last evaluation of a run's model measured"
)

CATALOGUE: Final[tuple[Metric, ...]] = (
    *(NODE_INFO, STATE, UPTIME, PLAN_INFO, REQUESTS, FAILURES, REQUEST_SECONDS, STAGE_SECONDS),
    *(STAGE_FAILURES, QUEUE, IN_FLIGHT, CREDITS, REFUSALS, DROPS, CODEC_RAW, CODEC_SENT, CODEC_FALLBACKS),
    *(QUARANTINED, LINK_BYTES, LINK_UP, LINK_RTT, LINK_QUEUED, REPORTS, REPORTS_DROPPED, ROUND),
    *(
        TRAINING_DECLINED,
        TRIAL,
        CERTIFICATE,
        SPANS_DROPPED,
        STREAM_FRAMES,
        STREAM_WAITING,
        STREAM_UP,
        STREAM_SECONDS,
        STREAM_ANSWERS,
    ),
    *(MEMORY, CPU, TEMPERATURE),
    *(CLIENT_REQUESTS, CLIENT_FAILURES, CLIENT_SECONDS, CLIENT_PARTS, CLIENT_ATTEMPTS),
    *(RELEASE_STATE, RELEASE_UPDATES, ROLLBACKS, ROLLOUT_TARGETS, ROLLOUT_PHASE),
    *(FED_ROUNDS, FED_LEFT_OUT, FED_ROUND, FED_SCORE),
)
"""All of them, in the order in which they are exposed."""


def by_metric(values: Iterable[Value]) -> dict[Metric, list[Value]]:
    """Series of each metric, in the catalogue's order; those without one are left out."""
    found: dict[Metric, list[Value]] = {metric: [] for metric in CATALOGUE}
    for value in values:
        found[value.metric].append(value)
    return {metric: series for metric, series in found.items() if series}
