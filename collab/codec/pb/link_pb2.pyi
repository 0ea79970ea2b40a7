from collab.codec.pb import envelope_pb2 as _envelope_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version_min", "version_max", "features", "name", "role", "max_message_bytes", "tensor_window_bytes", "blob_window_bytes", "endpoints", "software", "relay_to", "relay_ticket")
    VERSION_MIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_MAX_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOB_WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    RELAY_TO_FIELD_NUMBER: _ClassVar[int]
    RELAY_TICKET_FIELD_NUMBER: _ClassVar[int]
    version_min: int
    version_max: int
    features: _containers.RepeatedScalarFieldContainer[str]
    name: str
    role: str
    max_message_bytes: int
    tensor_window_bytes: int
    blob_window_bytes: int
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    software: str
    relay_to: str
    relay_ticket: bytes
    def __init__(self, version_min: _Optional[int] = ..., version_max: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., role: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., tensor_window_bytes: _Optional[int] = ..., blob_window_bytes: _Optional[int] = ..., endpoints: _Optional[_Iterable[str]] = ..., software: _Optional[str] = ..., relay_to: _Optional[str] = ..., relay_ticket: _Optional[bytes] = ...) -> None: ...

class CallHeader(_message.Message):
    __slots__ = ("id", "verb", "reply", "fault")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    id: int
    verb: str
    reply: bool
    fault: _envelope_pb2.Fault
    def __init__(self, id: _Optional[int] = ..., verb: _Optional[str] = ..., reply: _Optional[bool] = ..., fault: _Optional[_Union[_envelope_pb2.Fault, _Mapping]] = ...) -> None: ...
