"""The first frame in both directions: who an end is, what it takes, which version it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from collab import __version__
from collab.codec.envelope import MAX_ID, MAX_TEXT
from collab.codec.pb import link_pb2 as pb
from collab.codec.wire import Buffer, clean_text
from collab.core.identity import Principal
from collab.core.ids import NodeName, check_name
from collab.errors import InputError, ProtocolError, Refused
from collab.link.mux import Channel, MuxLimits, Type, parse
from collab.link.secure import demands_tls

VERSION: Final = 1
MAX_HELLO_BYTES: Final = 64 * 1024
MAX_ENDPOINTS: Final = 16
MAX_ENDPOINT: Final = 256
STREAM_SUFFIX: Final = "~stream"
"""What a node's name ends with where it asks for its sources."""
_MAX_TICKET: Final = 64


@dataclass(frozen=True)
class Identity:
    """Who an end of a link says it is; with certificates, name and role are proven."""

    name: NodeName
    role: str
    """``node``, ``client``, ``operator`` or ``controller``; of a node's streams ``stream``."""
    endpoints: tuple[str, ...] = ()
    software: str = f"collab/{__version__}"
    relay_to: str = ""
    """The node that a dialler wants to be joined with, instead of a session."""
    relay_ticket: bytes = b""
    """Names the connection that waits at a relay to be joined with this one."""


class Greeting(NamedTuple):
    """What a peer's hello says, checked."""

    peer: Identity
    max_message_bytes: int
    tensor_window_bytes: int
    blob_window_bytes: int


def encode_hello(me: Identity, limits: MuxLimits) -> bytes:
    """The body of this end's hello."""
    return pb.Hello(
        version_min=VERSION,
        version_max=VERSION,
        name=me.name,
        role=me.role,
        max_message_bytes=limits.message_bytes[Channel.TENSORS],
        tensor_window_bytes=limits.window_bytes[Channel.TENSORS],
        blob_window_bytes=limits.window_bytes[Channel.BLOBS],
        endpoints=me.endpoints,
        software=me.software,
        relay_to=me.relay_to,
        relay_ticket=me.relay_ticket,
    ).SerializeToString()


def decode_hello(frame: Buffer, address: str, me: Identity, proven: Principal | None) -> Greeting:
    """Check the peer's first frame; ``proven`` is what its certificate says, if it has shown one.

    Raises `ProtocolError`, or `Refused` when the peer refuses or is not who it says.
    """
    if demands_tls(frame):
        raise Refused(
            f"{address}: takes links with certificates only; enrol this device with "
            "'collab cluster join TOKEN', or name its identity with --identity"
        )
    type_, _, _, _, _, body = parse(frame)
    if type_ is Type.BYE:
        raise Refused(f"{address}: {refusal_text(body)}")
    if type_ is not Type.HELLO or len(body) > MAX_HELLO_BYTES:
        raise ProtocolError(f"{address}: the first frame is not a hello")
    try:
        hello = pb.Hello.FromString(bytes(body))
    except (DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{address}: the hello cannot be read") from error
    if not hello.version_min <= VERSION <= hello.version_max:
        raise ProtocolError(
            f"{address}: speaks versions {hello.version_min} to {hello.version_max} "
            f"of the protocol, this end {VERSION}; upgrade the older one"
        )
    role = hello.role[:16] if proven is None else proven.role
    name = _check_name(hello.name, role, address, proven)
    if role == "node" and "~" in name:
        # Such a name produces nothing in any plan; it may ask: as every client may, or its plans alone.
        role = "stream" if name.endswith(STREAM_SUFFIX) else "client"
    if name == me.name:
        raise ProtocolError(f"{address}: is named {name!r} like this end; give it another name")
    peer = Identity(
        name,
        role,
        tuple(endpoint[:MAX_ENDPOINT] for endpoint in hello.endpoints[:MAX_ENDPOINTS]),
        hello.software[:64],
        hello.relay_to[:MAX_ID],
        hello.relay_ticket[:_MAX_TICKET],
    )
    return Greeting(peer, hello.max_message_bytes, hello.tensor_window_bytes, hello.blob_window_bytes)


def refusal_text(body: Buffer) -> str:
    """The reason that a good-bye carries, fit for people."""
    return clean_text(str(bytes(body[:MAX_TEXT]), "utf-8", "replace"), MAX_TEXT) or "refuses this end"


def _check_name(text: str, role: str, address: str, proven: Principal | None) -> NodeName:
    """The peer's name, which its certificate must prove if it has shown one.

    Several processes may share a client's or an operator's certificate: each adds ``~``
    and a suffix, which no certificate's name contains.  A node that asks for others adds
    one as well.
    """
    base, mark, suffix = text.partition("~")
    try:
        check_name(base, "hello.name:")
        if mark:
            check_name(suffix, "hello.name: the suffix")
    except InputError as error:
        raise ProtocolError(str(error)) from error
    if len(text) > MAX_ID:
        raise ProtocolError(f"hello.name: {text[:MAX_ID]!r} is no name of a {role}")
    if proven is not None and base != proven.name:
        raise Refused(f"{address}: calls itself {text!r}, but its certificate is {proven}'s")
    return NodeName(text)
