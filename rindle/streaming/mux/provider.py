"""Calls to Mux, made with its SDK in threads of its own."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

import mux_python
import urllib3
from mux_python.exceptions import ApiException, OpenApiException

from rindle.errors import ProviderNotFound, ProviderQuotaExceeded, ProviderSyncFailed
from rindle.protocols import (
    STREAMING_CAPABILITIES,
    ConfigurationChecks,
    ConfigurationFlaw,
    DirectUploads,
    PlaybackGrant,
    ProviderAsset,
    ProviderUpload,
    StreamingProvider,
    VerifiedWebhook,
)
from rindle.security.redaction import scrub_requests
from rindle.streaming import signatures
from rindle.streaming.mux import webhooks
from rindle.streaming.mux.checks import flaws_of
from rindle.streaming.mux.config import MuxConfig
from rindle.streaming.mux.tokens import playback_token

log = logging.getLogger(__name__)

#: Time limit of one call in seconds.
CALL_SECONDS = 30.0
#: Threads of a provider: calls that it makes at once.
THREADS = 8
#: Pause in seconds when Mux limits the rate without saying for how long.
QUOTA_SECONDS = 60.0
#: Assets of a page, and pages that are searched for a passthrough: Mux cannot filter by it (API: list assets).
_PAGE, _PAGES = 100, 3
_STATES: Mapping[str, str] = {
    "preparing": "processing",
    "ready": "ready",
    "errored": "errored",
    "deleted": "deleted",
}
#: Logger to which the SDK writes the body of each answer.
_BODY_LOGGER = "mux_python.rest"
#: Statuses that a retry can change, beside all of 500 and above.
_TRANSIENT = frozenset({408, 425})


class _Configuration(mux_python.Configuration):  # type: ignore[misc] # the SDK ships no annotations
    """The SDK's configuration, which leaves the levels of the process's loggers as they are.

    The SDK's own sets those of urllib3, and so does each of its models: requests are plain data.
    """

    debug = False


class _PlainClient(mux_python.ApiClient):  # type: ignore[misc] # the SDK ships no annotations
    """The SDK's client with answers as plain data: its models refuse every status that a newer API adds."""

    def deserialize(self, response: Any, response_type: Any) -> Any:
        """Return the JSON document of an answer; ``None`` for an empty one."""
        return json.loads(response.data) if response.data else None


class MuxProvider(StreamingProvider, DirectUploads, ConfigurationChecks):
    """Mux as a streaming provider.

    Args:
        config: returns the credentials; called for each call to Mux, so that they can be rotated without a restart. By
            default the variables ``RINDLE_MUX_*`` of the environment.
        max_resolution_tier: the highest rendition that Mux makes: ``1080p``, ``1440p`` or ``2160p``.

    Raises:
        MissingExtra: when the module is imported without the extra ``mux``.
    """

    name: ClassVar[str] = "mux"

    def __init__(
        self, config: Callable[[], MuxConfig] = MuxConfig.of_environment, *, max_resolution_tier: str = "1080p"
    ) -> None:
        self._config = config
        self._tier = max_resolution_tier
        self._lock = threading.Lock()
        self._client: tuple[tuple[str, str, str], mux_python.ApiClient] | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def capabilities(self) -> frozenset[str]:
        """Return all capabilities."""
        return STREAMING_CAPABILITIES

    async def create_asset(self, source_url: str, *, policy: str, passthrough: str) -> ProviderAsset:
        """Create an asset from a URL; Mux fetches it in the background."""
        request = {"inputs": [{"url": source_url}], **self._settings(policy, passthrough)}
        made = await self._call("create an asset", mux_python.AssetsApi.create_asset, request)
        return _asset(made)

    async def find_by_passthrough(self, passthrough: str, *, since: datetime) -> ProviderAsset | None:
        """Search the newest assets; Mux lists them in this order, and cannot filter by passthrough."""
        for page in range(1, _PAGES + 1):
            listed = await self._call(
                "list assets", mux_python.AssetsApi.list_assets, is_list=True, limit=_PAGE, page=page
            )
            assets = [_asset(one) for one in listed]
            for asset in assets:
                if asset.passthrough == passthrough:
                    return asset
            oldest = assets[-1].created_at if assets else None
            if len(assets) < _PAGE or (oldest is not None and oldest < since):
                return None
        return None

    async def get_asset(self, asset_id: str) -> ProviderAsset:
        """Return the asset."""
        return _asset(await self._call("read an asset", mux_python.AssetsApi.get_asset, asset_id))

    async def delete_asset(self, asset_id: str) -> None:
        """Delete the asset; 404 is success."""
        try:
            await self._call("delete an asset", mux_python.AssetsApi.delete_asset, asset_id, has_answer=False)
        except ProviderNotFound:
            return

    async def playback_url(self, playback_id: str, *, policy: str, expires_in: int) -> PlaybackGrant:
        """Return the address of the HLS playlist; a signed one has a token, which expires."""
        config = self._config()
        url = f"{config.stream_url.rstrip('/')}/{quote(playback_id, safe='')}.m3u8"
        if policy == "public":
            return PlaybackGrant(url, None)
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_in)
        return PlaybackGrant(f"{url}?token={playback_token(config, playback_id, expires_at=expires_at)}", expires_at)

    def verify_webhook(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: datetime, tolerance_seconds: int
    ) -> VerifiedWebhook:
        """Verify the header ``Mux-Signature`` and read the webhook."""
        return webhooks.verified(body, headers, secrets, now=now, tolerance_seconds=tolerance_seconds)

    async def create_direct_upload(
        self, *, cors_origin: str, timeout_seconds: int, policy: str, passthrough: str
    ) -> ProviderUpload:
        """Create an upload; its address accepts bytes until the time limit has passed."""
        settings = self._settings(policy, passthrough)
        request = {"cors_origin": cors_origin, "timeout": timeout_seconds, "new_asset_settings": settings}
        return _upload(await self._call("create an upload", mux_python.DirectUploadsApi.create_direct_upload, request))

    async def get_direct_upload(self, upload_id: str) -> ProviderUpload:
        """Return the upload."""
        return _upload(await self._call("read an upload", mux_python.DirectUploadsApi.get_direct_upload, upload_id))

    async def cancel_direct_upload(self, upload_id: str) -> None:
        """Cancel the upload; 403 (it has ended) and 404 are success."""
        try:
            await self._call("cancel an upload", mux_python.DirectUploadsApi.cancel_direct_upload, upload_id)
        except ProviderNotFound:
            return
        except ProviderSyncFailed as error:
            if error.status != 403:
                raise

    def configuration_flaws(self, *, signed: bool) -> list[ConfigurationFlaw]:
        """Return what is wrong with the credentials."""
        return list(flaws_of(self._config(), signed=signed))

    async def ping(self) -> None:
        """List one asset."""
        await self._call("list assets", mux_python.AssetsApi.list_assets, is_list=True, limit=1, page=1)

    async def close(self) -> None:
        """Release the threads and connections."""
        with self._lock:
            threads, self._threads = self._threads, None
            client, self._client = self._client, None
        if threads is not None:
            threads.shutdown(wait=False)
        if client is not None:
            client[1].rest_client.pool_manager.clear()

    def _settings(self, policy: str, passthrough: str) -> dict[str, Any]:
        # The plural name: the singular one is deprecated.
        return {"playback_policies": [policy], "passthrough": passthrough, "max_resolution_tier": self._tier}

    async def _call(
        self,
        what: str,
        method: Callable[..., Any],
        *args: Any,
        is_list: bool = False,
        has_answer: bool = True,
        **kw: Any,
    ) -> Any:
        """Return the ``data`` of Mux's answer.

        Raises:
            ProviderNotFound, ProviderQuotaExceeded, ProviderSyncFailed: see :func:`_translated`.
        """
        call = partial(self._blocking, what, method, *args, **kw)
        context = contextvars.copy_context()  # trace and log context follow the call into the thread
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rindle-mux")
            future = self._threads.submit(context.run, call)
        answer = await asyncio.wrap_future(future)
        if not has_answer:
            return None
        data = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(data, list if is_list else Mapping):
            raise _unexpected(what, type(data).__name__)
        return data

    def _blocking(self, what: str, method: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        client = self._api_client(self._config())
        api = method.__qualname__.partition(".")[0]
        bound = getattr(getattr(mux_python, api)(client), method.__name__)
        try:
            return bound(*args, _request_timeout=CALL_SECONDS, **kw)
        except ApiException as error:
            raise _translated(what, error) from None
        except urllib3.exceptions.HTTPError as error:
            raise ProviderSyncFailed(
                f"Mux did not answer the request to {what} ({type(error).__name__})", transient=True
            ) from None
        except (OpenApiException, ValueError, TypeError, AttributeError) as error:
            if isinstance(error.__context__, ApiException):  # the SDK cannot decode the body of every refusal
                raise _translated(what, error.__context__) from None
            raise _unexpected(what, type(error).__name__) from None

    def _api_client(self, config: MuxConfig) -> mux_python.ApiClient:
        wanted = (config.require("token_id"), config.require("token_secret"), config.base_url)
        with self._lock:
            if self._client is None or self._client[0] != wanted:
                settings = _Configuration(username=wanted[0], password=wanted[1], host=wanted[2].rstrip("/"))
                settings.retries = False  # urllib3 would repeat calls and sleep as long as Retry-After says
                settings.connection_pool_maxsize = THREADS
                _scrub_logs()
                self._client = (wanted, _PlainClient(settings))
            return self._client[1]


def _scrub_logs() -> None:
    """Keep ids and URLs of uploads out of what the SDK and its transport log at the level ``DEBUG``."""
    scrub_requests()
    bodies = logging.getLogger(_BODY_LOGGER)
    bodies.removeFilter(_is_no_body)
    bodies.addFilter(_is_no_body)


def _is_no_body(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("response body")


# --- answers -----------------------------------------------------------------------------------------------------


def _translated(what: str, error: ApiException) -> ProviderNotFound | ProviderQuotaExceeded | ProviderSyncFailed:
    """Return our error for the SDK's, without its body and headers: they hold ids and URLs."""
    status = int(error.status or 0)
    if status == 404:
        return ProviderNotFound("mux asset not found" if "asset" in what else "mux upload not found")
    if status == 429:
        return ProviderQuotaExceeded(
            f"Mux limits the rate of requests; the request to {what} is repeated later",
            retry_after=_retry_after(error.headers),
        )
    if status == 0:
        return ProviderSyncFailed(f"Mux could not be reached securely to {what}", transient=False)
    hint = "; check RINDLE_MUX_TOKEN_ID and RINDLE_MUX_TOKEN_SECRET" if status in (401, 403) else ""
    return ProviderSyncFailed(
        f"Mux answered the request to {what} with status {status}{hint}",
        status=status,
        transient=status >= 500 or status in _TRANSIENT,
    )


def _retry_after(headers: Any) -> float:
    try:
        seconds = float(headers.get("Retry-After", ""))
    except (AttributeError, TypeError, ValueError):
        return QUOTA_SECONDS
    return seconds if 0 <= seconds <= 86_400 else QUOTA_SECONDS


def _unexpected(what: str, found: str) -> ProviderSyncFailed:
    log.warning("mux answered with an unexpected shape", extra={"action": "provider_shape", "found": found})
    return ProviderSyncFailed(f"Mux answered the request to {what} with something unexpected", transient=False)


def _asset(data: Mapping[str, Any]) -> ProviderAsset:
    asset_id = data.get("id")
    if not isinstance(asset_id, str) or not asset_id:
        raise _unexpected("read an asset", type(asset_id).__name__)
    status = str(data.get("status", ""))
    if status not in _STATES:
        log.warning("mux reports an unknown status", extra={"action": "provider_status", "status": status[:32]})
    passthrough = data.get("passthrough")
    return ProviderAsset(
        id=asset_id,
        playback_ids=signatures.playback_ids_of(data.get("playback_ids")),
        state=_STATES.get(status, ""),
        error=webhooks.error_of(data.get("errors")),
        passthrough=passthrough if isinstance(passthrough, str) else None,
        created_at=signatures.instant_of(data.get("created_at")),
        raw=data,
    )


def _upload(data: Mapping[str, Any]) -> ProviderUpload:
    upload_id, asset_id = data.get("id"), data.get("asset_id")
    if not isinstance(upload_id, str) or not upload_id:
        raise _unexpected("read an upload", type(upload_id).__name__)
    return ProviderUpload(
        id=upload_id,
        url=str(data.get("url") or ""),
        status=str(data.get("status") or ""),
        asset_id=asset_id if isinstance(asset_id, str) else None,
        error=webhooks.error_of(data.get("error")),
    )
