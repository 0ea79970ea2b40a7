"""Certificates of the server and of its clients, over both protocols."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from collab.codec.pb import grpc_service_pb2 as pb
from collab.errors import ConfigError, UsageError
from collab.serving.access import Access
from collab.serving.door import DoorSettings, FrontDoor
from collab.serving.tls import TlsFiles, tls_files
from tests.grpc_runtime import grpc_runtime
from tests.unit.serving.stand_in import Double, opener

__all__ = ["grpc_runtime"]


def make(folder: Path) -> TlsFiles:
    """A certificate of 127.0.0.1 that signs itself, for the server and for its clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "door")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "cert.pem")
    files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make(tmp_path_factory.mktemp("tls"))


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """Of a client that trusts a server's certificate, and has it as well."""
    context = ssl.create_default_context(cafile=str(files.cert))
    context.load_cert_chain(files.cert, files.key)
    return context


@pytest.fixture(scope="module")
def contexts(tls: TlsFiles) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client with a certificate, and of one without."""
    return context_of(tls), ssl.create_default_context(cafile=str(tls.cert))


@pytest.fixture(scope="module")
def pem(tls: TlsFiles) -> tuple[bytes, bytes]:
    return tls.cert.read_bytes(), tls.key.read_bytes()


async def test_only_clients_with_a_certificate_are_answered(
    tls: TlsFiles, contexts: tuple[ssl.SSLContext, ssl.SSLContext], pem: tuple[bytes, bytes]
):
    access = Access(role="inference")
    settings = DoorSettings("127.0.0.1:0", "127.0.0.1:0", access, tls=tls)
    read, open_plan = opener({"m": Double()})
    known, unknown = contexts
    cert, key = pem
    async with FrontDoor([Path("m")], read, open_plan, settings) as door:
        assert door.listen.startswith("https://")
        async with httpx.AsyncClient(base_url=door.listen, verify=known, trust_env=False) as client:
            assert (await client.get("/v2")).status_code == 200
            assert (await client.post("/v2/repository/models/m/unload")).status_code == 403
        async with httpx.AsyncClient(base_url=door.listen, verify=unknown, trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/v2")
        for credentials, answers in (
            (grpc.ssl_channel_credentials(cert, key, cert), True),
            (grpc.ssl_channel_credentials(cert), False),
        ):
            async with grpc.aio.secure_channel(door.grpc, credentials) as channel:
                ask = channel.unary_unary(
                    "/inference.GRPCInferenceService/ServerLive",
                    pb.ServerLiveRequest.SerializeToString,
                    pb.ServerLiveResponse.FromString,
                )
                if answers:
                    assert (await ask(pb.ServerLiveRequest())).live
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await ask(pb.ServerLiveRequest(), timeout=5)


async def test_new_connections_get_a_renewed_certificate(tls: TlsFiles, tmp_path: Path):
    new = make(tmp_path)
    settings = DoorSettings("127.0.0.1:0", "127.0.0.1:0", Access(), tls=tls)
    read, open_plan = opener({"m": Double()})

    async def answers(files: TlsFiles) -> list[bool]:
        """Whether who trusts and has a certificate is answered over REST and over gRPC."""
        context = await asyncio.to_thread(context_of, files)
        cert, key = await asyncio.to_thread(lambda: (files.cert.read_bytes(), files.key.read_bytes()))
        found = []
        async with httpx.AsyncClient(base_url=door.listen, verify=context, trust_env=False) as client:
            try:
                found.append((await client.get("/v2")).status_code == 200)
            except httpx.TransportError:
                found.append(False)
        credentials = grpc.ssl_channel_credentials(cert, key, cert)
        async with grpc.aio.secure_channel(door.grpc, credentials) as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                pb.ServerLiveRequest.SerializeToString,
                pb.ServerLiveResponse.FromString,
            )
            try:
                found.append((await ask(pb.ServerLiveRequest(), timeout=5)).live)
            except grpc.aio.AioRpcError:
                found.append(False)
        return found

    async with FrontDoor([Path("m")], read, open_plan, settings) as door:
        assert await answers(tls) == [True, True]
        assert await answers(new) == [False, False]
        door.renew(await asyncio.to_thread(new.load))
        assert await answers(new) == [True, True]
        assert await answers(tls) == [False, False]


def test_a_key_of_another_certificate_is_refused(tls: TlsFiles, tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be used"):
        tls._replace(key=make(tmp_path).key).load()


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
async def test_files_that_cannot_be_used_are_named(protocol: str, tls: TlsFiles):
    missing = tls._replace(key=Path("none.pem"))
    place = "127.0.0.1:0"
    rest, calls = (place, None) if protocol == "rest" else (None, place)
    read, open_plan = opener({"m": Double()})
    settings = DoorSettings(rest, calls, Access(), tls=missing)
    with pytest.raises(ConfigError, match=r"cannot be used|none\.pem: No such file"):
        async with FrontDoor([Path("m")], read, open_plan, settings):
            pass


def test_the_options_go_together(tls: TlsFiles):
    assert tls_files(None, None, None) is None
    assert tls_files(*tls) == tls
    for given in ((tls.cert, None, None), (None, tls.key, None), (None, None, tls.cert)):
        with pytest.raises(UsageError):
            tls_files(*given)
