from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    VALUE: _ClassVar[Kind]
    ABSENT: _ClassVar[Kind]
    ERROR: _ClassVar[Kind]
    CANCEL: _ClassVar[Kind]
    FAILED: _ClassVar[Kind]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    LOW: _ClassVar[Priority]
    NORMAL: _ClassVar[Priority]
    HIGH: _ClassVar[Priority]

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    BOOL: _ClassVar[DType]
    INT8: _ClassVar[DType]
    UINT8: _ClassVar[DType]
    INT16: _ClassVar[DType]
    UINT16: _ClassVar[DType]
    FLOAT16: _ClassVar[DType]
    INT32: _ClassVar[DType]
    UINT32: _ClassVar[DType]
    FLOAT32: _ClassVar[DType]
    INT64: _ClassVar[DType]
    UINT64: _ClassVar[DType]
    FLOAT64: _ClassVar[DType]
    COMPLEX64: _ClassVar[DType]
    COMPLEX128: _ClassVar[DType]
KIND_UNSPECIFIED: Kind
VALUE: Kind
ABSENT: Kind
ERROR: Kind
CANCEL: Kind
FAILED: Kind
PRIORITY_UNSPECIFIED: Priority
LOW: Priority
NORMAL: Priority
HIGH: Priority
DTYPE_UNSPECIFIED: DType
BOOL: DType
INT8: DType
UINT8: DType
INT16: DType
UINT16: DType
FLOAT16: DType
INT32: DType
UINT32: DType
FLOAT32: DType
INT64: DType
UINT64: DType
FLOAT64: DType
COMPLEX64: DType
COMPLEX128: DType

class Envelope(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: Header
    payload: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "dtype", "bytes", "codec")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: DType
    bytes: int
    codec: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DType, str]] = ..., bytes: _Optional[int] = ..., codec: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "message", "node", "stage", "granted")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    node: str
    stage: str
    granted: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., node: _Optional[str] = ..., stage: _Optional[str] = ..., granted: _Optional[int] = ...) -> None: ...

class Hop(_message.Message):
    __slots__ = ("stage", "node", "queue_us", "decode_us", "compute_us", "encode_us", "raw_bytes", "sent_bytes", "codec_error", "codec_fallbacks")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    ENCODE_US_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    CODEC_ERROR_FIELD_NUMBER: _ClassVar[int]
    CODEC_FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    stage: int
    node: str
    queue_us: int
    decode_us: int
    compute_us: int
    encode_us: int
    raw_bytes: int
    sent_bytes: int
    codec_error: float
    codec_fallbacks: int
    def __init__(self, stage: _Optional[int] = ..., node: _Optional[str] = ..., queue_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., encode_us: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., codec_error: _Optional[float] = ..., codec_fallbacks: _Optional[int] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("plan", "epoch", "requester", "route")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUESTER_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    plan: str
    epoch: int
    requester: str
    route: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plan: _Optional[str] = ..., epoch: _Optional[int] = ..., requester: _Optional[str] = ..., route: _Optional[_Iterable[str]] = ...) -> None: ...

class TensorTable(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("context", "request", "attempt", "edge", "kind", "budget_us", "tensors", "fault", "reason", "hops", "trace", "sequence", "more", "conversation", "step", "priority")
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    EDGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BUDGET_US_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    context: bytes
    request: bytes
    attempt: int
    edge: int
    kind: Kind
    budget_us: int
    tensors: bytes
    fault: Fault
    reason: str
    hops: _containers.RepeatedCompositeFieldContainer[Hop]
    trace: bytes
    sequence: int
    more: bool
    conversation: bytes
    step: int
    priority: Priority
    def __init__(self, context: _Optional[bytes] = ..., request: _Optional[bytes] = ..., attempt: _Optional[int] = ..., edge: _Optional[int] = ..., kind: _Optional[_Union[Kind, str]] = ..., budget_us: _Optional[int] = ..., tensors: _Optional[bytes] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., reason: _Optional[str] = ..., hops: _Optional[_Iterable[_Union[Hop, _Mapping]]] = ..., trace: _Optional[bytes] = ..., sequence: _Optional[int] = ..., more: _Optional[bool] = ..., conversation: _Optional[bytes] = ..., step: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...
