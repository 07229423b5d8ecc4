"""Where the arguments of ``Client.connect`` come from, and what is said when the server is away."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    EncodingPayloadConverter,
    PayloadCodec,
)
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from examples.temporal.cluster import cluster
from examples.temporal.own_client import own_client
from rindle import TemporalConnection
from rindle.errors import Misconfigured, TemporalUnavailable
from rindle.temporal_client import client_for_messages, converter_for_messages
from tests import encrypted

API_KEY = "a-key-that-no-message-may-show"
ENVIRONMENT = {"TEMPORAL_ADDRESS": "env.example:7233", "TEMPORAL_NAMESPACE": "from-env", "TEMPORAL_API_KEY": API_KEY}


class _Codec(PayloadCodec):
    async def encode(self, payloads: Any) -> list[Payload]:
        return list(payloads)

    async def decode(self, payloads: Any) -> list[Payload]:
        return list(payloads)


class _BytesOnly(EncodingPayloadConverter):
    encoding = "binary/own"

    def to_payload(self, value: Any) -> Payload | None:
        return Payload(metadata={"encoding": b"binary/own"}, data=value) if isinstance(value, bytes) else None

    def from_payload(self, payload: Payload, type_hint: Any = None) -> Any:
        return payload.data


class _OwnPayloads(CompositePayloadConverter):
    def __init__(self) -> None:
        super().__init__(_BytesOnly())


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments with which the SDK was called; the call fails as for a server that is away."""
    found: dict[str, Any] = {}

    async def connect(target_host: str, **arguments: Any) -> Client:
        found.update(arguments, target_host=target_host)
        raise RuntimeError("Failed client connect: Server connection error: kind: ConnectionRefused")

    monkeypatch.setattr(Client, "connect", connect)
    return found


async def refusal(connection: TemporalConnection) -> str:
    """Connect in vain; return the message."""
    with pytest.raises(TemporalUnavailable) as caught:
        await connection.client()
    return caught.value.message


async def test_explicit_arguments_win_over_the_environment(connected: dict[str, Any]) -> None:
    interceptor, plugin = Interceptor(), SimplePlugin("mine")
    tls = TLSConfig(domain="temporal.internal")
    converter = dataclasses.replace(pydantic_data_converter, payload_codec=_Codec())

    message = await refusal(
        TemporalConnection(
            target_host="code.example:7233",
            namespace="media",
            tls=tls,
            data_converter=converter,
            interceptors=[interceptor],
            plugins=[plugin],
            environment=ENVIRONMENT,
        )
    )

    assert {name: connected[name] for name in ("target_host", "namespace", "tls", "api_key")} == {
        "target_host": "code.example:7233",
        "namespace": "media",
        "tls": tls,
        "api_key": API_KEY,  # left to the environment
    }
    assert (connected["data_converter"], connected["interceptors"], connected["plugins"]) == (
        converter,
        [interceptor],
        [plugin],
    )
    assert "code.example:7233, namespace media" in message and "refused" in message
    assert API_KEY not in message


async def test_the_environment_is_the_default(connected: dict[str, Any]) -> None:
    message = await refusal(TemporalConnection(environment=ENVIRONMENT))

    assert (connected["target_host"], connected["namespace"], connected["api_key"], connected["tls"]) == (
        *ENVIRONMENT.values(),
        True,
    )
    assert connected["data_converter"] is pydantic_data_converter
    assert "env.example:7233, namespace from-env" in message and API_KEY not in message


async def test_without_any_configuration_it_is_the_local_server(connected: dict[str, Any]) -> None:
    connection = TemporalConnection(environment={})

    assert "localhost:7233, namespace default" in await refusal(connection)
    assert (connection.address, connection.namespace) == ("localhost:7233", "default")


async def test_the_examples_of_the_documentation_connect_as_they_say(
    connected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with encrypted.cipher():
        from examples.temporal.encrypted import encrypted as encrypted_connection
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_bytes(name.encode())

    await refusal(cluster(tmp_path))
    assert connected["tls"] == TLSConfig(
        server_root_ca_cert=b"ca.pem", client_cert=b"client.pem", client_private_key=b"client.key"
    )
    assert (connected["target_host"], connected["namespace"]) == ("temporal.example.com:7233", "media")

    monkeypatch.setenv("MEDIA_KEYS", "2027:" + "bm5u" * 10 + "bm4=,2026:" + "a2tr" * 10 + "a2s=")
    await refusal(encrypted_connection())
    assert type(connected["data_converter"].payload_codec).__name__ == "EncryptionCodec"

    monkeypatch.setenv("MEDIA_TEMPORAL_KEY", API_KEY)
    connected.clear()
    own = own_client()
    message = await refusal(own)
    assert (connected["target_host"], connected["api_key"]) == ("media.a1b2c.tmprl.cloud:7233", API_KEY)
    assert "connect function" in message and API_KEY not in message
    assert (own.address, own.namespace) == (None, None)


async def test_a_connect_function_stands_alone(connected: dict[str, Any]) -> None:
    async def connect() -> Client:
        return await Client.connect("mine:7233")

    for other in ({"namespace": "media"}, {"tls": True}, {"data_converter": pydantic_data_converter}):
        with pytest.raises(Misconfigured, match=next(iter(other))):
            TemporalConnection(connect=connect, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (RuntimeError('ConnectError("dns error", "failed to lookup address information")'), "host was not found"),
        (RuntimeError("InvalidCertificate(UnknownIssuer)"), "TLS"),
        (RuntimeError("Status { code: Unauthenticated }"), "credentials"),
        (TimeoutError(), "no answer within 2 s"),
        (OSError(f"token={API_KEY}"), "the connection failed"),
    ],
)
async def test_the_reason_is_said_without_the_text_of_the_error(raised: Exception, reason: str) -> None:
    async def connect() -> Client:
        raise raised

    message = await refusal(TemporalConnection(connect=connect))

    assert reason in message and API_KEY not in message


async def test_a_configuration_that_cannot_be_read_is_named_and_not_shown(tmp_path: Path) -> None:
    broken = tmp_path / "temporal.toml"
    broken.write_text(f'[profile.default]\napi_key = "{API_KEY}" oops\n')

    with pytest.raises(Misconfigured) as caught:
        await TemporalConnection(environment={"TEMPORAL_CONFIG_FILE": str(broken)}).client()

    assert "TEMPORAL_CONFIG_FILE" in caught.value.message
    assert API_KEY not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.__suppress_context__


def test_a_converter_with_only_a_codec_gets_the_payload_converter_that_messages_need() -> None:
    codec = _Codec()

    suited = converter_for_messages(DataConverter(payload_codec=codec))

    assert suited.payload_converter_class is pydantic_data_converter.payload_converter_class
    assert suited.payload_codec is codec
    assert converter_for_messages(suited) is suited


def test_a_payload_converter_that_cannot_convert_messages_is_refused_at_once() -> None:
    with pytest.raises(Misconfigured, match="_OwnPayloads"):
        TemporalConnection(data_converter=DataConverter(payload_converter_class=_OwnPayloads))


def test_a_client_of_the_application_keeps_its_connection_and_gets_the_payload_converter() -> None:
    service: Any = object()
    codec = _Codec()

    suited = client_for_messages(Client(service, namespace="media", data_converter=DataConverter(payload_codec=codec)))

    assert (suited.service_client, suited.namespace, suited.data_converter.payload_codec) == (service, "media", codec)
    assert suited.data_converter.payload_converter_class is pydantic_data_converter.payload_converter_class
    assert client_for_messages(suited) is suited


def test_a_plug_in_that_insists_on_another_converter_is_refused() -> None:
    service: Any = object()
    plugin = SimplePlugin("insists", data_converter=DataConverter(payload_codec=_Codec()))

    with pytest.raises(Misconfigured, match="plug-in of the Temporal client"):
        client_for_messages(Client(service, plugins=[plugin]))


def test_nothing_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    connection = TemporalConnection(api_key=API_KEY, environment={})

    assert API_KEY not in f"{connection!r} {connection.label} {caplog.text}"


# --- search attributes -----------------------------------------------------------------------------------------------


def refused_start(status: RPCStatusCode, message: str) -> RPCError:
    """Return the error of a start."""
    return RPCError(message, status, b"")


@pytest.mark.parametrize(
    "error",
    [
        refused_start(
            RPCStatusCode.INVALID_ARGUMENT, "Namespace default has no mapping defined for search attribute X"
        ),
        refused_start(RPCStatusCode.INTERNAL, "no mapping defined for field X"),
    ],
)
async def test_a_namespace_without_search_attributes_starts_workflows_without_them(error: RPCError) -> None:
    connection = TemporalConnection(environment={})
    calls: list[bool] = []

    async def start(are_used: bool) -> str:
        calls.append(are_used)
        if are_used:
            raise error
        return "started"

    assert await connection.with_search_attributes(start, wanted=True) == "started"
    assert await connection.with_search_attributes(start, wanted=True) == "started"
    assert calls == [True, False, False]  # the second call knows


async def test_another_refusal_of_a_start_is_raised_and_unwanted_attributes_are_never_sent() -> None:
    connection = TemporalConnection(environment={})
    calls: list[bool] = []

    async def start(are_used: bool) -> None:
        calls.append(are_used)
        raise refused_start(RPCStatusCode.INVALID_ARGUMENT, "the task queue has no name")

    for wanted in (True, False):
        with pytest.raises(RPCError, match="task queue"):
            await connection.with_search_attributes(start, wanted=wanted)
    assert calls == [True, False]
    assert connection.has_search_attributes is None
