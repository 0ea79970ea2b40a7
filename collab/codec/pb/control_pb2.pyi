from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("name", "endpoints", "software", "device", "memory_bytes", "cores", "runtime_class", "models", "state", "plans", "transports", "codecs", "wall_clock_ms", "reports", "remarks", "sources", "sinks", "transforms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_CLASS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    WALL_CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    software: str
    device: str
    memory_bytes: int
    cores: int
    runtime_class: RuntimeClass
    models: _containers.RepeatedScalarFieldContainer[str]
    state: str
    plans: _containers.RepeatedCompositeFieldContainer[LoadedPlan]
    transports: _containers.RepeatedScalarFieldContainer[str]
    codecs: _containers.RepeatedScalarFieldContainer[str]
    wall_clock_ms: int
    reports: ReportState
    remarks: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedCompositeFieldContainer[Declared]
    sinks: _containers.RepeatedCompositeFieldContainer[Declared]
    transforms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., software: _Optional[str] = ..., device: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., cores: _Optional[int] = ..., runtime_class: _Optional[_Union[RuntimeClass, _Mapping]] = ..., models: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., plans: _Optional[_Iterable[_Union[LoadedPlan, _Mapping]]] = ..., transports: _Optional[_Iterable[str]] = ..., codecs: _Optional[_Iterable[str]] = ..., wall_clock_ms: _Optional[int] = ..., reports: _Optional[_Union[ReportState, _Mapping]] = ..., remarks: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[_Union[Declared, _Mapping]]] = ..., sinks: _Optional[_Iterable[_Union[Declared, _Mapping]]] = ..., transforms: _Optional[_Iterable[str]] = ...) -> None: ...

class Declared(_message.Message):
    __slots__ = ("name", "kind", "lacking")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    lacking: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., lacking: _Optional[str] = ...) -> None: ...

class RuntimeClass(_message.Message):
    __slots__ = ("backend", "version", "machine", "cpu_features", "delegate")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    CPU_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DELEGATE_FIELD_NUMBER: _ClassVar[int]
    backend: str
    version: str
    machine: str
    cpu_features: _containers.RepeatedScalarFieldContainer[str]
    delegate: str
    def __init__(self, backend: _Optional[str] = ..., version: _Optional[str] = ..., machine: _Optional[str] = ..., cpu_features: _Optional[_Iterable[str]] = ..., delegate: _Optional[str] = ...) -> None: ...

class LoadedPlan(_message.Message):
    __slots__ = ("plan", "epoch", "digest", "state", "stages", "in_flight", "primary", "fault", "release", "trial")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    plan: str
    epoch: int
    digest: str
    state: str
    stages: _containers.RepeatedScalarFieldContainer[str]
    in_flight: int
    primary: str
    fault: str
    release: str
    trial: str
    def __init__(self, plan: _Optional[str] = ..., epoch: _Optional[int] = ..., digest: _Optional[str] = ..., state: _Optional[str] = ..., stages: _Optional[_Iterable[str]] = ..., in_flight: _Optional[int] = ..., primary: _Optional[str] = ..., fault: _Optional[str] = ..., release: _Optional[str] = ..., trial: _Optional[str] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("reply_bytes", "body", "timed")
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    TIMED_FIELD_NUMBER: _ClassVar[int]
    reply_bytes: int
    body: bytes
    timed: bool
    def __init__(self, reply_bytes: _Optional[int] = ..., body: _Optional[bytes] = ..., timed: _Optional[bool] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("received_bytes", "body", "handling_us")
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HANDLING_US_FIELD_NUMBER: _ClassVar[int]
    received_bytes: int
    body: bytes
    handling_us: int
    def __init__(self, received_bytes: _Optional[int] = ..., body: _Optional[bytes] = ..., handling_us: _Optional[int] = ...) -> None: ...

class BlobStatusRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class BlobStatusReply(_message.Message):
    __slots__ = ("bytes", "complete")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    bytes: _containers.RepeatedScalarFieldContainer[int]
    complete: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, bytes: _Optional[_Iterable[int]] = ..., complete: _Optional[_Iterable[bool]] = ...) -> None: ...

class PutBlobRequest(_message.Message):
    __slots__ = ("sha256", "total_bytes", "offset", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    total_bytes: int
    offset: int
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., total_bytes: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutBlobReply(_message.Message):
    __slots__ = ("bytes", "complete")
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    complete: bool
    def __init__(self, bytes: _Optional[int] = ..., complete: _Optional[bool] = ...) -> None: ...

class DropBlobsRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class DropBlobsReply(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: int
    def __init__(self, dropped: _Optional[int] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("plan", "epoch", "holder", "expected_epoch", "expected_digest")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    epoch: int
    holder: str
    expected_epoch: int
    expected_digest: str
    def __init__(self, plan: _Optional[bytes] = ..., epoch: _Optional[int] = ..., holder: _Optional[str] = ..., expected_epoch: _Optional[int] = ..., expected_digest: _Optional[str] = ...) -> None: ...

class ReserveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("plan", "epoch", "digest", "holder")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    plan: str
    epoch: int
    digest: str
    holder: str
    def __init__(self, plan: _Optional[str] = ..., epoch: _Optional[int] = ..., digest: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class PrepareReply(_message.Message):
    __slots__ = ("memory_bytes",)
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    def __init__(self, memory_bytes: _Optional[int] = ...) -> None: ...

class EpochRequest(_message.Message):
    __slots__ = ("plan", "epoch", "digest", "holder")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    plan: str
    epoch: int
    digest: str
    holder: str
    def __init__(self, plan: _Optional[str] = ..., epoch: _Optional[int] = ..., digest: _Optional[str] = ..., holder: _Optional[str] = ...) -> None: ...

class EpochReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: str
    def __init__(self, plan: _Optional[str] = ...) -> None: ...

class GetPlanReply(_message.Message):
    __slots__ = ("epoch", "json")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    json: bytes
    def __init__(self, epoch: _Optional[int] = ..., json: _Optional[bytes] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("plan", "epoch", "want", "short")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    SHORT_FIELD_NUMBER: _ClassVar[int]
    plan: str
    epoch: int
    want: int
    short: bool
    def __init__(self, plan: _Optional[str] = ..., epoch: _Optional[int] = ..., want: _Optional[int] = ..., short: _Optional[bool] = ...) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("granted", "valid_us")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    VALID_US_FIELD_NUMBER: _ClassVar[int]
    granted: int
    valid_us: int
    def __init__(self, granted: _Optional[int] = ..., valid_us: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("plans", "counters", "peers", "found", "resident_bytes", "uptime_ms", "reports", "state", "stages", "answers", "bounds_us", "cpu_us", "streams")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_US_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[LoadedPlan]
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    found: _containers.RepeatedCompositeFieldContainer[Found]
    resident_bytes: int
    uptime_ms: int
    reports: ReportState
    state: str
    stages: _containers.RepeatedCompositeFieldContainer[StageLoad]
    answers: _containers.RepeatedCompositeFieldContainer[PlanAnswers]
    bounds_us: _containers.RepeatedScalarFieldContainer[int]
    cpu_us: int
    streams: _containers.RepeatedCompositeFieldContainer[StreamState]
    def __init__(self, plans: _Optional[_Iterable[_Union[LoadedPlan, _Mapping]]] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., found: _Optional[_Iterable[_Union[Found, _Mapping]]] = ..., resident_bytes: _Optional[int] = ..., uptime_ms: _Optional[int] = ..., reports: _Optional[_Union[ReportState, _Mapping]] = ..., state: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageLoad, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[PlanAnswers, _Mapping]]] = ..., bounds_us: _Optional[_Iterable[int]] = ..., cpu_us: _Optional[int] = ..., streams: _Optional[_Iterable[_Union[StreamState, _Mapping]]] = ...) -> None: ...

class StreamState(_message.Message):
    __slots__ = ("plan", "id", "source", "state", "trouble", "captured", "answered", "dropped", "failed", "waiting", "sinks")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    CAPTURED_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    plan: str
    id: str
    source: str
    state: str
    trouble: str
    captured: int
    answered: int
    dropped: int
    failed: int
    waiting: int
    sinks: _containers.RepeatedCompositeFieldContainer[SinkState]
    def __init__(self, plan: _Optional[str] = ..., id: _Optional[str] = ..., source: _Optional[str] = ..., state: _Optional[str] = ..., trouble: _Optional[str] = ..., captured: _Optional[int] = ..., answered: _Optional[int] = ..., dropped: _Optional[int] = ..., failed: _Optional[int] = ..., waiting: _Optional[int] = ..., sinks: _Optional[_Iterable[_Union[SinkState, _Mapping]]] = ...) -> None: ...

class SinkState(_message.Message):
    __slots__ = ("name", "delivered", "lost", "waiting", "trouble")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    delivered: int
    lost: int
    waiting: int
    trouble: str
    def __init__(self, name: _Optional[str] = ..., delivered: _Optional[int] = ..., lost: _Optional[int] = ..., waiting: _Optional[int] = ..., trouble: _Optional[str] = ...) -> None: ...

class StageLoad(_message.Message):
    __slots__ = ("plan", "stage", "queued", "runs", "failed")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    plan: str
    stage: str
    queued: int
    runs: int
    failed: int
    def __init__(self, plan: _Optional[str] = ..., stage: _Optional[str] = ..., queued: _Optional[int] = ..., runs: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class PlanAnswers(_message.Message):
    __slots__ = ("plan", "ok", "absent", "failed", "buckets")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    plan: str
    ok: int
    absent: int
    failed: int
    buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, plan: _Optional[str] = ..., ok: _Optional[int] = ..., absent: _Optional[int] = ..., failed: _Optional[int] = ..., buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class Counter(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...

class Found(_message.Message):
    __slots__ = ("name", "endpoints", "cluster", "by", "conflict")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    CONFLICT_FIELD_NUMBER: _ClassVar[int]
    name: str
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    cluster: str
    by: _containers.RepeatedScalarFieldContainer[str]
    conflict: bool
    def __init__(self, name: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., cluster: _Optional[str] = ..., by: _Optional[_Iterable[str]] = ..., conflict: _Optional[bool] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("name", "address", "rtt_us", "kind", "role", "relayed", "sent_bytes", "received_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    rtt_us: int
    kind: str
    role: str
    relayed: bool
    sent_bytes: int
    received_bytes: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., rtt_us: _Optional[int] = ..., kind: _Optional[str] = ..., role: _Optional[str] = ..., relayed: _Optional[bool] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ...) -> None: ...

class ProfileRequest(_message.Message):
    __slots__ = ("sha256", "runs", "threads", "budget_ms", "share", "hand_over")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    runs: int
    threads: int
    budget_ms: float
    share: float
    hand_over: bool
    def __init__(self, sha256: _Optional[str] = ..., runs: _Optional[int] = ..., threads: _Optional[int] = ..., budget_ms: _Optional[float] = ..., share: _Optional[float] = ..., hand_over: _Optional[bool] = ...) -> None: ...

class ProfileReply(_message.Message):
    __slots__ = ("run_ms", "cpu_ms", "memory_bytes", "load_ms", "load", "in_flight", "hand_over_ms", "energy_j", "elapsed_ms")
    RUN_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    HAND_OVER_MS_FIELD_NUMBER: _ClassVar[int]
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    run_ms: _containers.RepeatedScalarFieldContainer[float]
    cpu_ms: _containers.RepeatedScalarFieldContainer[float]
    memory_bytes: int
    load_ms: float
    load: float
    in_flight: int
    hand_over_ms: _containers.RepeatedScalarFieldContainer[float]
    energy_j: float
    elapsed_ms: float
    def __init__(self, run_ms: _Optional[_Iterable[float]] = ..., cpu_ms: _Optional[_Iterable[float]] = ..., memory_bytes: _Optional[int] = ..., load_ms: _Optional[float] = ..., load: _Optional[float] = ..., in_flight: _Optional[int] = ..., hand_over_ms: _Optional[_Iterable[float]] = ..., energy_j: _Optional[float] = ..., elapsed_ms: _Optional[float] = ...) -> None: ...

class ProfileCodecsRequest(_message.Message):
    __slots__ = ("codecs", "tensors", "budget_ms", "share")
    CODECS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedScalarFieldContainer[str]
    tensors: _containers.RepeatedCompositeFieldContainer[SampleTensor]
    budget_ms: float
    share: float
    def __init__(self, codecs: _Optional[_Iterable[str]] = ..., tensors: _Optional[_Iterable[_Union[SampleTensor, _Mapping]]] = ..., budget_ms: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class SampleTensor(_message.Message):
    __slots__ = ("shape", "dtype", "data")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    data: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ProfileCodecsReply(_message.Message):
    __slots__ = ("codecs",)
    CODECS_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedCompositeFieldContainer[CodecTime]
    def __init__(self, codecs: _Optional[_Iterable[_Union[CodecTime, _Mapping]]] = ...) -> None: ...

class CodecTime(_message.Message):
    __slots__ = ("codec", "encode_mb_s", "decode_mb_s")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MB_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_MB_S_FIELD_NUMBER: _ClassVar[int]
    codec: str
    encode_mb_s: float
    decode_mb_s: float
    def __init__(self, codec: _Optional[str] = ..., encode_mb_s: _Optional[float] = ..., decode_mb_s: _Optional[float] = ...) -> None: ...

class ProbePeerRequest(_message.Message):
    __slots__ = ("peer", "endpoints", "kind", "sizes", "rounds", "budget_ms", "share")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    peer: str
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    kind: str
    sizes: _containers.RepeatedScalarFieldContainer[int]
    rounds: int
    budget_ms: float
    share: float
    def __init__(self, peer: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., kind: _Optional[str] = ..., sizes: _Optional[_Iterable[int]] = ..., rounds: _Optional[int] = ..., budget_ms: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class ProbePeerReply(_message.Message):
    __slots__ = ("samples", "lost", "relayed")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[ProbeSample]
    lost: int
    relayed: bool
    def __init__(self, samples: _Optional[_Iterable[_Union[ProbeSample, _Mapping]]] = ..., lost: _Optional[int] = ..., relayed: _Optional[bool] = ...) -> None: ...

class ProbeSample(_message.Message):
    __slots__ = ("up_bytes", "down_bytes", "ms")
    UP_BYTES_FIELD_NUMBER: _ClassVar[int]
    DOWN_BYTES_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    up_bytes: int
    down_bytes: int
    ms: float
    def __init__(self, up_bytes: _Optional[int] = ..., down_bytes: _Optional[int] = ..., ms: _Optional[float] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("in_flight",)
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    in_flight: int
    def __init__(self, in_flight: _Optional[int] = ...) -> None: ...

class DrainingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainingReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutRevocationsRequest(_message.Message):
    __slots__ = ("crl",)
    CRL_FIELD_NUMBER: _ClassVar[int]
    crl: bytes
    def __init__(self, crl: _Optional[bytes] = ...) -> None: ...

class PutRevocationsReply(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class ReportState(_message.Message):
    __slots__ = ("waiting", "dropped")
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    waiting: int
    dropped: int
    def __init__(self, waiting: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class TakeReportsRequest(_message.Message):
    __slots__ = ("after", "limit", "acknowledge")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGE_FIELD_NUMBER: _ClassVar[int]
    after: int
    limit: int
    acknowledge: bool
    def __init__(self, after: _Optional[int] = ..., limit: _Optional[int] = ..., acknowledge: _Optional[bool] = ...) -> None: ...

class TakeReportsReply(_message.Message):
    __slots__ = ("reports", "state")
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    state: ReportState
    def __init__(self, reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., state: _Optional[_Union[ReportState, _Mapping]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("number", "plan", "epoch", "request", "at_ms", "compute_us", "outcome", "digest", "alone")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    number: int
    plan: str
    epoch: int
    request: bytes
    at_ms: int
    compute_us: int
    outcome: str
    digest: bytes
    alone: bool
    def __init__(self, number: _Optional[int] = ..., plan: _Optional[str] = ..., epoch: _Optional[int] = ..., request: _Optional[bytes] = ..., at_ms: _Optional[int] = ..., compute_us: _Optional[int] = ..., outcome: _Optional[str] = ..., digest: _Optional[bytes] = ..., alone: _Optional[bool] = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("sha256", "offset", "limit")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    limit: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GetBlobReply(_message.Message):
    __slots__ = ("total_bytes", "data")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    data: bytes
    def __init__(self, total_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class DescribeTrainingRequest(_message.Message):
    __slots__ = ("run", "trainable")
    RUN_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    run: str
    trainable: str
    def __init__(self, run: _Optional[str] = ..., trainable: _Optional[str] = ...) -> None: ...

class DescribeTrainingReply(_message.Message):
    __slots__ = ("trainer", "samples", "step_s", "refusal", "holds", "ready", "encodings", "children")
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ENCODINGS_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    trainer: str
    samples: int
    step_s: float
    refusal: str
    holds: _containers.RepeatedScalarFieldContainer[str]
    ready: bool
    encodings: _containers.RepeatedScalarFieldContainer[str]
    children: int
    def __init__(self, trainer: _Optional[str] = ..., samples: _Optional[int] = ..., step_s: _Optional[float] = ..., refusal: _Optional[str] = ..., holds: _Optional[_Iterable[str]] = ..., ready: _Optional[bool] = ..., encodings: _Optional[_Iterable[str]] = ..., children: _Optional[int] = ...) -> None: ...

class TrainingOrder(_message.Message):
    __slots__ = ("run", "round", "attempt", "evaluate")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    attempt: int
    evaluate: bool
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., evaluate: _Optional[bool] = ...) -> None: ...

class OfferTrainingRequest(_message.Message):
    __slots__ = ("order", "trainable", "weights", "control", "training", "encoding", "deadline_s", "counted", "clip", "noise_multiplier", "sums", "masked", "due_s")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    DUE_S_FIELD_NUMBER: _ClassVar[int]
    order: TrainingOrder
    trainable: str
    weights: str
    control: str
    training: bytes
    encoding: bytes
    deadline_s: float
    counted: TrainingOrder
    clip: float
    noise_multiplier: float
    sums: bytes
    masked: bool
    due_s: float
    def __init__(self, order: _Optional[_Union[TrainingOrder, _Mapping]] = ..., trainable: _Optional[str] = ..., weights: _Optional[str] = ..., control: _Optional[str] = ..., training: _Optional[bytes] = ..., encoding: _Optional[bytes] = ..., deadline_s: _Optional[float] = ..., counted: _Optional[_Union[TrainingOrder, _Mapping]] = ..., clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., sums: _Optional[bytes] = ..., masked: _Optional[bool] = ..., due_s: _Optional[float] = ...) -> None: ...

class OfferTrainingReply(_message.Message):
    __slots__ = ("state", "lacks", "holds")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    state: TrainingState
    lacks: _containers.RepeatedScalarFieldContainer[str]
    holds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[TrainingState, _Mapping]] = ..., lacks: _Optional[_Iterable[str]] = ..., holds: _Optional[_Iterable[str]] = ...) -> None: ...

class TrainingState(_message.Message):
    __slots__ = ("state", "reason", "steps", "update", "update_bytes", "samples", "seconds", "metrics", "children")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    state: str
    reason: str
    steps: int
    update: str
    update_bytes: int
    samples: int
    seconds: float
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    children: _containers.RepeatedCompositeFieldContainer[ChildState]
    def __init__(self, state: _Optional[str] = ..., reason: _Optional[str] = ..., steps: _Optional[int] = ..., update: _Optional[str] = ..., update_bytes: _Optional[int] = ..., samples: _Optional[int] = ..., seconds: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., children: _Optional[_Iterable[_Union[ChildState, _Mapping]]] = ...) -> None: ...

class ChildState(_message.Message):
    __slots__ = ("name", "kind", "samples", "seconds", "loss", "reason", "field")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    samples: int
    seconds: float
    loss: float
    reason: str
    field: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., samples: _Optional[int] = ..., seconds: _Optional[float] = ..., loss: _Optional[float] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class BeginTrainingRequest(_message.Message):
    __slots__ = ("order", "parts")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    order: TrainingOrder
    parts: _containers.RepeatedCompositeFieldContainer[EncodedWeights]
    def __init__(self, order: _Optional[_Union[TrainingOrder, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[EncodedWeights, _Mapping]]] = ...) -> None: ...

class EncodedWeights(_message.Message):
    __slots__ = ("weights", "blob", "base")
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    weights: str
    blob: str
    base: str
    def __init__(self, weights: _Optional[str] = ..., blob: _Optional[str] = ..., base: _Optional[str] = ...) -> None: ...

class BeginTrainingReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrainingState
    def __init__(self, state: _Optional[_Union[TrainingState, _Mapping]] = ...) -> None: ...

class TrainingStatusRequest(_message.Message):
    __slots__ = ("order", "wait_ms")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    order: TrainingOrder
    wait_ms: int
    def __init__(self, order: _Optional[_Union[TrainingOrder, _Mapping]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class TrainingStatusReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: TrainingState
    def __init__(self, state: _Optional[_Union[TrainingState, _Mapping]] = ...) -> None: ...

class EndTrainingRequest(_message.Message):
    __slots__ = ("order", "counted", "leave")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    order: TrainingOrder
    counted: bool
    leave: bool
    def __init__(self, order: _Optional[_Union[TrainingOrder, _Mapping]] = ..., counted: _Optional[bool] = ..., leave: _Optional[bool] = ...) -> None: ...

class EndTrainingReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MaskTrainingRequest(_message.Message):
    __slots__ = ("order", "message")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    order: TrainingOrder
    message: bytes
    def __init__(self, order: _Optional[_Union[TrainingOrder, _Mapping]] = ..., message: _Optional[bytes] = ...) -> None: ...

class MaskTrainingReply(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    def __init__(self, message: _Optional[bytes] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("plan", "number", "phase", "candidate", "bounds")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    plan: str
    number: int
    phase: str
    candidate: bytes
    bounds: bytes
    def __init__(self, plan: _Optional[str] = ..., number: _Optional[int] = ..., phase: _Optional[str] = ..., candidate: _Optional[bytes] = ..., bounds: _Optional[bytes] = ...) -> None: ...

class PutTrialRequest(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class PutTrialReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TrialCounts(_message.Message):
    __slots__ = ("number", "phase", "requests", "touched", "compared", "disagreed", "slow", "not_finite", "failed", "served", "reason")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    DISAGREED_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    NOT_FINITE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    phase: str
    requests: int
    touched: int
    compared: int
    disagreed: int
    slow: int
    not_finite: int
    failed: int
    served: int
    reason: str
    def __init__(self, number: _Optional[int] = ..., phase: _Optional[str] = ..., requests: _Optional[int] = ..., touched: _Optional[int] = ..., compared: _Optional[int] = ..., disagreed: _Optional[int] = ..., slow: _Optional[int] = ..., not_finite: _Optional[int] = ..., failed: _Optional[int] = ..., served: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ObserveRequest(_message.Message):
    __slots__ = ("plan", "known_number", "known_phase", "counts")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    KNOWN_NUMBER_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PHASE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    plan: str
    known_number: int
    known_phase: str
    counts: TrialCounts
    def __init__(self, plan: _Optional[str] = ..., known_number: _Optional[int] = ..., known_phase: _Optional[str] = ..., counts: _Optional[_Union[TrialCounts, _Mapping]] = ...) -> None: ...

class ObserveReply(_message.Message):
    __slots__ = ("trial",)
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class GetTrialRequest(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: str
    def __init__(self, plan: _Optional[str] = ...) -> None: ...

class GetTrialReply(_message.Message):
    __slots__ = ("trial", "counts")
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    trial: Trial
    counts: _containers.RepeatedCompositeFieldContainer[RequesterCounts]
    def __init__(self, trial: _Optional[_Union[Trial, _Mapping]] = ..., counts: _Optional[_Iterable[_Union[RequesterCounts, _Mapping]]] = ...) -> None: ...

class RequesterCounts(_message.Message):
    __slots__ = ("requester", "counts")
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    requester: str
    counts: TrialCounts
    def __init__(self, requester: _Optional[str] = ..., counts: _Optional[_Union[TrialCounts, _Mapping]] = ...) -> None: ...

class ConditionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConditionReply(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("plan", "request", "correct", "label", "corrected")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_FIELD_NUMBER: _ClassVar[int]
    plan: str
    request: bytes
    correct: bool
    label: int
    corrected: bool
    def __init__(self, plan: _Optional[str] = ..., request: _Optional[bytes] = ..., correct: _Optional[bool] = ..., label: _Optional[int] = ..., corrected: _Optional[bool] = ...) -> None: ...

class FeedbackReply(_message.Message):
    __slots__ = ("counted", "correct", "reason")
    COUNTED_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    counted: bool
    correct: bool
    reason: str
    def __init__(self, counted: _Optional[bool] = ..., correct: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class GetReleaseFileRequest(_message.Message):
    __slots__ = ("repository", "path", "offset", "limit")
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    repository: str
    path: str
    offset: int
    limit: int
    def __init__(self, repository: _Optional[str] = ..., path: _Optional[str] = ..., offset: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GetReleaseFileReply(_message.Message):
    __slots__ = ("total_bytes", "data")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    data: bytes
    def __init__(self, total_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
