"""The Temporal client of the process: created on first use, with a time limit and a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from rindle.errors import TemporalUnavailable
from rindle.workflows import ids

log = logging.getLogger(__name__)

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


class TemporalConnection:
    """Connects as ``temporalio.envconfig`` configures it: ``TEMPORAL_ADDRESS``, ``TEMPORAL_PROFILE`` and others.

    Args:
        connect_seconds: time limit of one attempt to connect.
        client: an existing client to use instead; it must use the pydantic data converter.
        environment: variables to read instead of the process's own.
    """

    def __init__(
        self,
        *,
        connect_seconds: float = 2.0,
        client: Client | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._connect_seconds = connect_seconds
        self._client = client
        self._environment = environment
        self._runtime: Runtime | None = None
        self._lock = asyncio.Lock()
        self._pause_seconds = 0.25
        self._closed_until = 0.0
        self._are_registered = False
        self._is_registration_rejected = False
        self._unmapped_until = 0.0

    def use_runtime(self, runtime: Runtime) -> None:
        """Connect through ``runtime`` (metrics, core logs); takes effect only before the first connection."""
        self._runtime = runtime

    async def client(self) -> Client:
        """Return the client, and connect first if necessary.

        Raises:
            TemporalUnavailable: no connection within the limit, or the breaker is still open from the last attempt.
        """
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                if time.monotonic() < self._closed_until:
                    raise _unavailable("the last attempt to connect has just failed")
                try:
                    async with asyncio.timeout(self._connect_seconds):
                        self._client = await self._connect()
                except (TimeoutError, RuntimeError, OSError, RPCError) as error:
                    self._closed_until = time.monotonic() + self._pause_seconds
                    self._pause_seconds = min(self._pause_seconds * 2, _MAX_PAUSE_SECONDS)
                    raise _unavailable("the connection failed") from error
                self._pause_seconds = 0.25
        return self._client

    async def _connect(self) -> Client:
        config: dict[str, Any] = dict(
            ClientConfig.load_client_connect_config(
                override_env_vars=None if self._environment is None else dict(self._environment)
            )
        )
        config.setdefault("target_host", "localhost:7233")
        config.setdefault(
            "identity", f"{socket.gethostname()}:{os.getpid()}:{os.environ.get('RINDLE_BUILD_ID', 'dev')}"
        )
        if self._runtime is not None:
            config["runtime"] = self._runtime
        return await Client.connect(**config, data_converter=pydantic_data_converter)

    async def healthy(self) -> bool:
        """Whether the server can read the namespace now.

        The server's own health check passes as long as its process runs, even without a database. The call takes at
        most twice ``connect_seconds``: once to connect, once for the response.
        """
        try:
            client = await self.client()
            async with asyncio.timeout(self._connect_seconds):
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        except (TemporalUnavailable, RPCError, TimeoutError):
            return False
        return True

    async def require_answer(self) -> None:
        """Return when this process reaches the server.

        Raises:
            TemporalUnavailable: no connection, or the server does not answer on it.
        """
        client = await self.client()
        try:
            async with asyncio.timeout(self._connect_seconds):
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
        except TimeoutError as error:
            raise _unavailable("the server does not answer") from error
        except RPCError as error:
            # Credentials may allow to start workflows, but not to read the namespace.
            if error.status in UNREACHABLE - {RPCStatusCode.PERMISSION_DENIED}:
                raise _unavailable("the server does not answer") from error

    @property
    def has_search_attributes(self) -> bool | None:
        """Whether the namespace has Rindle's search attributes; ``None`` while that is not known.

        A namespace without them gets them later, from a worker that registers them or from its operator. So ``False``
        holds for ten seconds.
        """
        if time.monotonic() < self._unmapped_until:
            return False
        return True if self._are_registered else None

    def note_unmapped(self) -> None:
        """Note that the namespace did not know the search attributes of a workflow."""
        if self._unmapped_until == 0:
            log.warning("the namespace lacks Rindle's search attributes; workflows start without them")
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
                    "search attributes could not be registered; workflows have those that the namespace has",
                    extra={"action": "search_attributes", "status": error.status.name},
                )
                self._is_registration_rejected = error.status in _REJECTED
                return False
        self._are_registered = True
        return True


def _unavailable(why: str) -> TemporalUnavailable:
    return TemporalUnavailable(
        f"Temporal cannot be reached: {why}. To fix: 1. start the server or check TEMPORAL_ADDRESS and "
        "TEMPORAL_NAMESPACE; 2. verify with: rindle doctor",
        retry_after=5,
    )
