"""The Temporal client of the process: created on first use, with a time limit and a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import SecretStr
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, Interceptor, Plugin
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultPayloadConverter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from rindle.errors import Misconfigured, RindleError, TemporalUnavailable
from rindle.messages import StatusView
from rindle.workflows import ids

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds of one attempt to connect when neither the connection nor the settings say otherwise.
_CONNECT_SECONDS = 2.0
#: Longest pause of the circuit breaker between attempts to connect.
_MAX_PAUSE_SECONDS = 5.0
#: gRPC statuses of a server that this process cannot reach, or that does not know this process.
UNREACHABLE = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNAUTHENTICATED,
        RPCStatusCode.PERMISSION_DENIED,
    }
)
#: gRPC statuses of a server that does not register search attributes.
_REJECTED = frozenset(
    {
        RPCStatusCode.PERMISSION_DENIED,
        RPCStatusCode.UNIMPLEMENTED,
        RPCStatusCode.INVALID_ARGUMENT,
        RPCStatusCode.FAILED_PRECONDITION,
        RPCStatusCode.NOT_FOUND,
    }
)
_RPC_SECONDS = timedelta(seconds=10)
#: Seconds for which workflows start without search attributes after the namespace did not know them.
_UNMAPPED_SECONDS = 10.0
#: Pause in seconds between two attempts to register search attributes.
_REGISTER_PAUSE_SECONDS = 5.0
#: What the SDK's error of a failed connection contains, and the reason in plain words. The error itself is not shown:
#: it may repeat what the server or the application's own code wrote.
_REASONS = (
    (re.compile(r"ConnectionRefused"), "the connection was refused"),
    (re.compile(r"dns error|failed to lookup", re.IGNORECASE), "the name of the host was not found"),
    (re.compile(r"certificate|handshake|tls", re.IGNORECASE), "the TLS connection failed; check tls and certificates"),
    (re.compile(r"Unauthenticated|PermissionDenied"), "the server rejected the credentials"),
)
_PROBE = StatusView(kind="upload", state="open", stage="waiting", started_at=datetime(2026, 1, 1, tzinfo=UTC))


class TemporalConnection:
    """How this application connects to Temporal; the environment decides what the arguments leave out.

    The arguments up to ``plugins`` have the names and meanings of ``temporalio.client.Client.connect``. An argument
    that is left out is read as every program of Temporal reads it: ``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``,
    ``TEMPORAL_API_KEY``, ``TEMPORAL_TLS_*``, or the profile ``TEMPORAL_PROFILE`` of a configuration file
    (``temporalio.envconfig``). All processes of an application use one: web processes, workers, relays and commands.

    Args:
        target_host: ``host:port`` of the server; ``localhost:7233`` when nothing names one.
        namespace: the namespace; ``default`` when nothing names one.
        api_key: key of Temporal Cloud or of a cluster with keys; it enables TLS.
        tls: ``True`` for TLS, a ``TLSConfig`` for certificates of your own (mTLS), ``False`` for none.
        data_converter: converts and encrypts payloads. Without a payload converter of its own, it gets the one that
            Rindle needs (``temporalio.contrib.pydantic``).
        interceptors: interceptors of the client; those for workers also apply to Rindle's workers.
        plugins: plug-ins of the client; those for workers also apply to Rindle's workers.
        connect: async function that returns a connected client, instead of all arguments above.
        client: a connected client, likewise. It belongs to one event loop, so it suits tests and programs with one
            loop; modules that several programs import use ``connect``.
        connect_seconds: time limit of one attempt to connect; ``RINDLE_TEMPORAL_CONNECT_SECONDS`` when left out.
        environment: variables to read instead of the process's own.

    Raises:
        Misconfigured: ``connect`` or ``client`` is combined with other arguments, or the data converter cannot convert
            Rindle's messages.

    Example:
        temporal = TemporalConnection(data_converter=encrypting, namespace="media")
        rindle = Rindle(engine=engine, profiles=[Avatar], temporal=temporal)
    """

    def __init__(
        self,
        *,
        target_host: str | None = None,
        namespace: str | None = None,
        api_key: str | SecretStr | None = None,
        tls: bool | TLSConfig | None = None,
        data_converter: DataConverter | None = None,
        interceptors: Sequence[Interceptor] = (),
        plugins: Sequence[Plugin] = (),
        connect: Callable[[], Awaitable[Client]] | None = None,
        client: Client | None = None,
        connect_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        explicit: dict[str, Any] = {
            "target_host": target_host,
            "namespace": namespace,
            "api_key": api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key,
            "tls": tls,
            "data_converter": data_converter,
            "interceptors": list(interceptors) or None,
            "plugins": list(plugins) or None,
        }
        #: What goes to ``Client.connect`` whatever the environment has.
        self._explicit = {name: value for name, value in explicit.items() if value is not None}
        ways = [name for name, value in (("connect", connect), ("client", client)) if value is not None]
        if ways and (len(ways) > 1 or self._explicit):
            others = ", ".join([*ways[1:], *self._explicit])
            raise Misconfigured(f"TemporalConnection({ways[0]}=...) returns a finished client: leave out {others}")
        self._explicit["data_converter"] = converter_for_messages(data_converter or pydantic_data_converter)
        self._connector = connect
        self._client = None if client is None else client_for_messages(client)
        self._connect_seconds = connect_seconds
        self._default_seconds = _CONNECT_SECONDS
        self._environment = environment
        self._runtime: Runtime | None = None
        self._lock = asyncio.Lock()
        self._pause_seconds = 0.25
        self._closed_until = 0.0
        self._last_reason = ""
        self._are_registered = False
        self._is_registration_rejected = False
        self._unmapped_until = 0.0

    @property
    def address(self) -> str | None:
        """``host:port`` of the server; ``None`` while only the application's ``connect`` function has it."""
        return self._target()[0]

    @property
    def namespace(self) -> str | None:
        """The namespace; ``None`` while only the application's ``connect`` function has it."""
        return self._target()[1]

    @property
    def label(self) -> str:
        """Address and namespace for messages, without credentials."""
        address, namespace = self._target()
        if address is None:
            return "the server of the application's connect function"
        return f"{address}, namespace {namespace}"

    def _target(self) -> tuple[str | None, str | None]:
        if self._client is not None:
            return self._client.service_client.config.target_host, self._client.namespace
        if self._connector is not None:
            return None, None
        try:
            arguments = self._arguments()
        except Misconfigured:
            arguments = self._explicit
        return arguments.get("target_host", "unknown address"), arguments.get("namespace", "default")

    @property
    def _limit_seconds(self) -> float:
        return self._default_seconds if self._connect_seconds is None else self._connect_seconds

    def use_connect_seconds(self, seconds: float) -> None:
        """Set the time limit of one attempt, unless the connection was made with one."""
        self._default_seconds = seconds

    def use_runtime(self, runtime: Runtime) -> None:
        """Connect through ``runtime`` (metrics, core logs); takes effect only before the first connection."""
        self._runtime = runtime

    async def client(self) -> Client:
        """Return the client, and connect first if necessary.

        Raises:
            TemporalUnavailable: no connection within the limit, or the breaker is still open from the last attempt.
            Misconfigured: the configuration of the environment cannot be read, or the client cannot convert Rindle's
                messages.
        """
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                if time.monotonic() < self._closed_until:
                    raise self.unavailable(self._last_reason)  # of a moment ago
                try:
                    async with asyncio.timeout(self._limit_seconds):
                        connected = await self._connect()
                except (TimeoutError, RuntimeError, OSError, RPCError) as error:
                    self._closed_until = time.monotonic() + self._pause_seconds
                    self._pause_seconds = min(self._pause_seconds * 2, _MAX_PAUSE_SECONDS)
                    self._last_reason = self._reason(error)
                    raise self.unavailable(self._last_reason) from error
                self._client = client_for_messages(connected)
                self._pause_seconds = 0.25
        return self._client

    async def _connect(self) -> Client:
        if self._connector is not None:
            if self._runtime is not None:
                # The function decides about its runtime; the worker's is the default of one that names none.
                with contextlib.suppress(RuntimeError):  # the application has set a default of its own
                    Runtime.set_default(self._runtime)
            return await self._connector()
        arguments = self._arguments()
        if self._runtime is not None:
            arguments["runtime"] = self._runtime
        return await Client.connect(**arguments)

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of ``Client.connect``: the explicit ones, then those of the environment.

        Raises:
            Misconfigured: the environment names a configuration that cannot be read.
        """
        try:
            found: dict[str, Any] = dict(
                ClientConfig.load_client_connect_config(
                    override_env_vars=None if self._environment is None else dict(self._environment)
                )
            )
        except Exception as error:
            # Without the error itself: it may show a line of the file, with its key.
            raise Misconfigured(
                f"Temporal's configuration cannot be read ({type(error).__name__}). To fix: check TEMPORAL_PROFILE, "
                "the file TEMPORAL_CONFIG_FILE, the files that TEMPORAL_TLS_* name, and other TEMPORAL_* variables"
            ) from None
        found.setdefault("target_host", "localhost:7233")
        found.setdefault("identity", f"{socket.gethostname()}:{os.getpid()}:{os.environ.get('RINDLE_BUILD_ID', 'dev')}")
        return {**found, **self._explicit}

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._limit_seconds:g} s"
        if isinstance(error, RPCError):
            return f"the server answered {error.status.name}"
        return next((reason for pattern, reason in _REASONS if pattern.search(str(error))), "the connection failed")

    async def healthy(self) -> bool:
        """Whether the server can read the namespace now.

        The server's own health check passes as long as its process runs, even without a database. The call takes at
        most twice ``connect_seconds``: once to connect, once for the response.
        """
        try:
            client = await self.client()
            async with asyncio.timeout(self._limit_seconds):
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        except (RindleError, RPCError, TimeoutError):
            return False
        return True

    async def require_answer(self) -> None:
        """Return when this process reaches the server.

        Raises:
            TemporalUnavailable: no connection, or the server does not answer on it.
        """
        client = await self.client()
        try:
            async with asyncio.timeout(self._limit_seconds):
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        except TimeoutError as error:
            raise self.unavailable("the server does not answer") from error
        except RPCError as error:
            # Credentials may allow to start workflows, but not to read the namespace.
            if error.status in UNREACHABLE - {RPCStatusCode.PERMISSION_DENIED}:
                raise self.unavailable("the server does not answer") from error

    @property
    def has_search_attributes(self) -> bool | None:
        """Whether the namespace has Rindle's search attributes; ``None`` while that is not known.

        A namespace without them gets them later, from a worker that registers them or from its operator. So ``False``
        holds for ten seconds.
        """
        if time.monotonic() < self._unmapped_until:
            return False
        return True if self._are_registered else None

    async def with_search_attributes(self, start: Callable[[bool], Awaitable[T]], *, wanted: bool) -> T:
        """Start a workflow with Rindle's search attributes, or without where the namespace does not have them.

        An application may start before its worker registers them, and managed clusters reject the registration.

        Args:
            start: makes the call; its argument says whether with search attributes. Called again without them when the
                server does not know them.
            wanted: ``False`` never uses them.
        """
        if not wanted or self.has_search_attributes is False:
            return await start(False)
        try:
            return await start(True)
        except RPCError as error:
            if not is_unmapped(error):
                raise
        self.note_unmapped()
        return await start(False)

    def note_unmapped(self) -> None:
        """Note that the namespace did not know the search attributes of a workflow."""
        if self._unmapped_until == 0:
            log.warning("the namespace lacks Rindle's search attributes; workflows start without them (%s)", self.label)
        self._unmapped_until = time.monotonic() + _UNMAPPED_SECONDS

    async def keep_registering_search_attributes(self) -> None:
        """Register the search attributes; try again while the server does not answer, and end when it has."""
        while not (self._are_registered or self._is_registration_rejected):
            with contextlib.suppress(TemporalUnavailable):
                await self.register_search_attributes()
            await asyncio.sleep(_REGISTER_PAUSE_SECONDS)

    async def register_search_attributes(self) -> bool:
        """Register Rindle's search attributes in the namespace; ``False`` when the server rejects that.

        Managed clusters reject the registration: workflows have the attributes that the operator registered there. A
        server that does not answer has rejected nothing; see :meth:`keep_registering_search_attributes`.
        """
        client = await self.client()
        try:
            listed = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=client.namespace), timeout=_RPC_SECONDS
            )
            missing = [key.name for key in ids.SEARCH_ATTRIBUTES if key.name not in listed.custom_attributes]
            if missing:
                keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
                await client.operator_service.add_search_attributes(
                    AddSearchAttributesRequest(
                        namespace=client.namespace, search_attributes=dict.fromkeys(missing, keyword)
                    ),
                    timeout=_RPC_SECONDS,
                )
        except RPCError as error:
            if error.status is not RPCStatusCode.ALREADY_EXISTS:
                log.warning(
                    "search attributes could not be registered; workflows have those that the namespace has (%s)",
                    self.label,
                    extra={"action": "search_attributes", "status": error.status.name},
                )
                self._is_registration_rejected = error.status in _REJECTED
                return False
        self._are_registered = True
        return True

    def unavailable(
        self, why: str, *, problem: str = "cannot be reached", last_step: str | None = None
    ) -> TemporalUnavailable:
        """Return the error of a server that does not answer: which one, why, and what to do."""
        then = "" if last_step is None else f"; 3. {last_step}"
        return TemporalUnavailable(
            f"Temporal ({self.label}) {problem}: {why}. To fix: 1. start the server, or check the address and the "
            "namespace (TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or the arguments of TemporalConnection); 2. verify "
            f"with: rindle doctor{then}",
            retry_after=5,
        )


def is_unmapped(error: RPCError) -> bool:
    """Whether a start was refused because the namespace does not know the search attributes."""
    text = str(error).lower()
    unmapped = error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" in text
    return unmapped or "no mapping defined" in text


def client_for_messages(client: Client) -> Client:
    """Return ``client``, or a client on the same connection whose data converter can convert Rindle's messages.

    Raises:
        Misconfigured: its data converter cannot, or one of its plug-ins sets another one.
    """
    needed = converter_for_messages(client.data_converter)
    if needed is client.data_converter:
        return client
    config = client.config()
    config["data_converter"] = needed
    made = Client(**config)
    if converter_for_messages(made.data_converter) is not made.data_converter:
        raise Misconfigured(
            "a plug-in of the Temporal client sets a data converter without the pydantic payload converter. To fix: "
            "let the plug-in use temporalio.contrib.pydantic.PydanticPayloadConverter"
        )
    return made


def converter_for_messages(converter: DataConverter) -> DataConverter:
    """Return ``converter``, with the pydantic payload converter in place of the SDK's default one.

    Its codec, failure converter and storage are kept.

    Raises:
        Misconfigured: it has a payload converter of its own that does not convert pydantic models both ways.
    """
    if converter.payload_converter_class is DefaultPayloadConverter:
        return dataclasses.replace(converter, payload_converter_class=pydantic_data_converter.payload_converter_class)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            payloads = converter.payload_converter.to_payloads([_PROBE])
            is_suited = converter.payload_converter.from_payloads(payloads, [StatusView]) == [_PROBE]
    except Exception:
        is_suited = False
    if not is_suited:
        raise Misconfigured(
            f"the payload converter {converter.payload_converter_class.__name__} does not convert pydantic models, "
            "which Rindle's messages are. To fix: derive it from temporalio.contrib.pydantic.PydanticPayloadConverter"
        )
    return converter
