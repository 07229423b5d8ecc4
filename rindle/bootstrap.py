"""Assemble a worker process: the only module that selects concrete adapters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.orm import Session
from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.converter import DataConverter
from temporalio.worker import Interceptor, PollerBehaviorAutoscaling, Worker, WorkerDeploymentConfig
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from rindle import outbox, run_directories, telemetry, workflows
from rindle.activities.builders import Builders
from rindle.activities.erasure import ErasureActivities
from rindle.activities.failures import FailureInterceptor
from rindle.activities.maintenance import MaintenanceActivities
from rindle.activities.originals import OriginalReader
from rindle.activities.outages import Check, OutageWatch
from rindle.activities.probing import Prober
from rindle.activities.promotion import PromotionActivities
from rindle.activities.provider_uploads import ProviderUploadActivities
from rindle.activities.purge import PurgeActivities
from rindle.activities.source_cache import SourceCache
from rindle.activities.streaming import StreamingActivities
from rindle.activities.uploads import UploadActivities
from rindle.activities.variants import VariantActivities
from rindle.app import Rindle
from rindle.cancellation import cancel_and_wait, run_to_end
from rindle.db import streams
from rindle.erasure.steps import ErasureSteps
from rindle.errors import InvalidArgument, RindleError, TemporalUnavailable
from rindle.media.av_probe import AvProbe
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.media.render_pool import ImageProbe, RenderPool
from rindle.operations.health import HealthCheck, select_one
from rindle.operations.maintenance.backfill_metadata import BackfillMetadata
from rindle.operations.maintenance.registry import SWEEPS
from rindle.operations.maintenance.reprobe import Reprobe
from rindle.operations.maintenance.steps import SweepSteps
from rindle.operations.schedules import keep_applying
from rindle.process import ephemeral_runtime
from rindle.profile import Profile
from rindle.protocols import PartStream
from rindle.protocols.checked_storage import checked
from rindle.relay import Relay
from rindle.settings import PIXEL_CEILING, Settings
from rindle.states import OutputKind
from rindle.threads import in_thread
from rindle.uploads import assembly, backing, multipart
from rindle.workflows.sandbox import ContextFreeSandbox, needs_contexts
from rindle.workflows.signals import SignalGuard
from rindle.workflows.tuning import PolicyTuning

log = logging.getLogger(__name__)

#: Seconds that running work may take to finish after SIGTERM; longer for transcodes, which are expensive to repeat.
GRACE_SECONDS, AV_GRACE_SECONDS = 60.0, 300.0
#: The same for a page of a sweep, which is repeated elsewhere.
MAINTENANCE_GRACE_SECONDS = 10.0
#: The same for a call to a streaming provider, whose effect a later attempt finds.
PROVIDER_GRACE_SECONDS = 10.0
#: Seconds that a run's next task waits for the worker that has cached it before other workers may take it.
STICKY_SECONDS = 10
#: Activities that a worker runs at once on the workflows' queue; one plug-in has at most a third (``rindle.plugins``).
ACTIVITY_SLOTS = 100
#: Pages of sweeps that a worker runs at once: they never compete with uploads.
MAINTENANCE_SLOTS = 4
#: Calls to streaming providers that a worker makes at once.
PROVIDER_SLOTS = 16
#: Activities limit their heartbeats themselves (``activities.progress``); the SDK passes each one on within a second.
HEARTBEAT_THROTTLE = timedelta(seconds=1)
#: Seconds between attempts to reach Temporal while a worker starts.
_CONNECT_PAUSE_SECONDS = 1.0


def workflow_runner(converter: DataConverter | None = None) -> SandboxedWorkflowRunner:
    """Return the sandbox of workers and replayers; ``rindle`` is passed through, since it has no mutable globals.

    ``converter`` is that of a worker's client; see :mod:`rindle.workflows.sandbox`.
    """
    restrictions = SandboxRestrictions.default.with_passthrough_modules("rindle")
    lean = converter is not None and not needs_contexts(converter)
    return (ContextFreeSandbox if lean else SandboxedWorkflowRunner)(restrictions=restrictions)


def workflow_interceptors(settings: Settings) -> list[Interceptor]:
    """Return the workflow interceptors of workers and replayers."""
    tuning = PolicyTuning(
        heartbeat_seconds=settings.heartbeat_seconds, retry_initial_seconds=settings.retry_initial_seconds
    )
    return [SignalGuard(), tuning]


def queues_of(settings: Settings) -> list[str]:
    """Return the task queues of this release, in a worker's order."""
    return list(
        dict.fromkeys(
            [
                settings.queue(),
                settings.image_queue,
                settings.av_queue,
                settings.maintenance_queue,
                settings.provider_queue,
            ]
        )
    )


def workflows_of(settings: Settings, queue: str, *, is_versioned: bool) -> list[type]:
    """Return the workflows that workers of a task queue run; ``is_versioned`` for workers of a deployment."""
    if queue == settings.maintenance_queue:
        return list(workflows.MAINTENANCE)
    if queue != settings.queue():
        return []
    known = workflows.VERSIONED if is_versioned else workflows.ALL
    return [one for one in known if one not in workflows.MAINTENANCE]


def deployment_of(settings: Settings) -> WorkerDeploymentConfig | None:
    """Return the worker deployment that ``settings`` name, or ``None`` for unversioned workers (the default).

    Runs stay on the version they started on, except uploads, which may wait for a day and move to the newest version.
    """
    if not (settings.deployment_name and settings.build_id):
        return None
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(settings.deployment_name, settings.build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )


def render_pool(settings: Settings) -> RenderPool:
    """Return the pool of render children that ``settings`` describe (not started)."""
    return RenderPool(
        settings.render_children,
        wall_seconds=settings.render_wall_seconds,
        probe_seconds=settings.render_probe_seconds,
        memory_bytes=settings.render_memory_bytes,
    )


class WorkerParts:
    """What all workers of one process share, and the activities that they run.

    Args:
        rindle: the application.
    """

    def __init__(self, rindle: Rindle) -> None:
        self.rindle = rindle
        settings = rindle.settings
        self._pool = render_pool(settings)
        self._sources = SourceCache(
            settings.tmp_dir / "rindle.sources",
            max_bytes=settings.source_cache_bytes,
            max_age_seconds=settings.source_cache_age_seconds,
        )
        self._watch: OutageWatch | None = None
        #: The interceptor of every worker; it translates the failures of activities.
        self.failures = FailureInterceptor(self._note_outage)

    async def open(self) -> None:
        """Remove what killed processes left on this machine, and start the render children."""
        self.rindle.settings.scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._clean_up()
        await in_thread(self._pool.start)

    async def close(self) -> None:
        """Stop the render children and release threads."""
        async with contextlib.AsyncExitStack() as last_first:
            last_first.push_async_callback(self._sources.close)
            last_first.push_async_callback(self._pool.close)

    @contextlib.asynccontextmanager
    async def watching(self, client: Client) -> AsyncIterator[None]:
        """Retry activities that lost an attempt to an outage when the service answers again, inside the block."""
        self._watch = OutageWatch(client, self._outage_checks())
        task = asyncio.create_task(self._watch.run(), name="rindle-outages")
        try:
            yield
        finally:
            self._watch = None
            await cancel_and_wait(task)

    @contextlib.asynccontextmanager
    async def cleaning(self) -> AsyncIterator[None]:
        """Remove what killed processes left on this machine, again and again inside the block.

        Temporary directories are local, so that no schedule of Temporal can do it: every worker sweeps its own host.
        """
        task = asyncio.create_task(self._keep_clean(), name="rindle-clean-up")
        try:
            yield
        finally:
            await cancel_and_wait(task)

    async def _keep_clean(self) -> None:
        while True:
            await asyncio.sleep(self.rindle.settings.temp_sweep_seconds)
            try:
                await self._clean_up()
            except Exception as error:  # a full or broken disk: the next round tries again
                facts = {"action": "sweep_failed", "error": type(error).__name__}
                log.warning("leftovers could not be swept", extra=facts)

    @contextlib.asynccontextmanager
    async def registering(self) -> AsyncIterator[None]:
        """Register the search attributes inside the block, unless the settings say otherwise."""
        if not self.rindle.settings.search_attributes:
            yield
            return
        task = asyncio.create_task(
            self.rindle.temporal.keep_registering_search_attributes(), name="rindle-search-attributes"
        )
        try:
            yield
        finally:
            await cancel_and_wait(task)

    @contextlib.asynccontextmanager
    async def scheduling(self) -> AsyncIterator[None]:
        """Bring the schedules of the sweeps into the namespace inside the block, unless the settings say otherwise."""
        if not self.rindle.settings.schedules:
            yield
            return
        task = asyncio.create_task(keep_applying(self.rindle.services), name="rindle-schedules")
        try:
            yield
        finally:
            await cancel_and_wait(task)

    def activities(self) -> dict[str, list[Callable[..., Any]]]:
        """Return the activities of each task queue of the application."""
        services, settings, pool = self.rindle.services, self.rindle.settings, self._pool
        tools, limits = FfmpegTools.of(settings), AvLimits.of(settings)
        av_probe = AvProbe(tools, limits, settings.scratch)
        probes = (ImageProbe(pool, PIXEL_CEILING), av_probe)
        builders = Builders(services, pool=pool, av=AvProcessor(tools, limits), probes=probes)
        variants = VariantActivities(
            services, sources=self._sources, builders=builders, on_ready=partial(_start_push, settings)
        )
        streaming = StreamingActivities(services)
        provider_uploads = ProviderUploadActivities(services)
        release = partial(backing.release, services)
        uploads = UploadActivities(
            services,
            verify=partial(multipart.finish, services),
            assemble=partial(assembly.assemble, services, open_original=self._sources.open_local),
            release=release,
        )
        promotion = PromotionActivities(services, sources=self._sources, prober=self._prober(av_probe))
        erasures = ErasureSteps(services)
        client = self.rindle.temporal.client
        purge = PurgeActivities(services, client=client, sources=self._sources, erasures=erasures, release=release)
        erasure = ErasureActivities(services.database, erasures)
        found: dict[str, list[Callable[..., Any]]] = {queue: [] for queue in queues_of(settings)}
        found[settings.queue()] += [
            *uploads.all(),
            *promotion.all(),
            *variants.steps(),
            *purge.all(),
            *erasure.all(),
            *streaming.steps(),
            *provider_uploads.steps(),
        ]
        found[settings.image_queue].append(variants.render_images)
        found[settings.av_queue].append(variants.build_av)
        found[settings.provider_queue] += [*streaming.calls(), *provider_uploads.calls()]
        originals = self.originals()
        sweeps = SweepSteps(services, [*SWEEPS, BackfillMetadata(originals), Reprobe(originals)])
        found[settings.maintenance_queue] += MaintenanceActivities(sweeps).all()
        return found

    def originals(self) -> OriginalReader:
        """Return what reads the originals of validated assets again."""
        settings = self.rindle.settings
        av_probe = AvProbe(FfmpegTools.of(settings), AvLimits.of(settings), settings.scratch)
        return OriginalReader(self.rindle.services, sources=self._sources, prober=self._prober(av_probe))

    def _prober(self, av_probe: AvProbe) -> Prober:
        return Prober(self.rindle.settings, bundled_probe=partial(ImageProbe, self._pool), av_probe=av_probe)

    def _note_outage(self) -> None:
        if self._watch is not None:
            self._watch.note()

    async def _clean_up(self) -> None:
        """Remove files that killed processes left on this machine."""
        found = await in_thread(run_directories.sweep, self.rindle.settings.scratch)
        if found.errors:
            log.warning("leftovers could not be removed", extra={"action": "sweep_failed", "count": found.errors})
        swept = found.deleted
        for storage in self.rindle.storages.values():
            try:
                store = checked(storage)
                swept += await store.sweep(run_directories.STALE_SECONDS)
                if isinstance(store, PartStream):
                    swept += await store.sweep_part_streams(run_directories.STALE_SECONDS, self._live_uploads)
            except RindleError as error:  # an unreachable store must not block the start of a worker
                log.warning("leftovers could not be swept", extra={"action": "sweep_failed", "code": error.code})
        if swept:
            log.info("leftovers swept", extra={"action": "swept", "count": swept})

    async def _live_uploads(self, session_ids: Collection[str]) -> Collection[str]:
        return await self.rindle.database.read(streams.live_of, session_ids)

    def _outage_checks(self) -> dict[str, Check]:
        """Return a check of each service whose outages activities wait for."""
        stores: dict[str, Check] = {f"store {name}": store.ping for name, store in self.rindle.storages.items()}
        return {"database": partial(self.rindle.database.read, select_one), **stores}


@contextlib.asynccontextmanager
async def reading_originals(rindle: Rindle) -> AsyncIterator[OriginalReader]:
    """Yield what reads originals in this process, confined as in a worker; for sweeps that run without one."""
    parts = WorkerParts(rindle)
    await parts.open()
    try:
        yield parts.originals()
    finally:
        await run_to_end(parts.close())


def warn_of_runtime(rindle: Rindle, queues: Collection[str]) -> None:
    """Warn that video is refused on platforms that may stop this process at any time."""
    runtime = ephemeral_runtime()
    video_profiles = [
        profile.name
        for profile in rindle.profiles
        if any(spec.output_kind is OutputKind.VIDEO for spec in profile.variants.values())
    ]
    if runtime is None or not video_profiles or rindle.settings.av_queue not in queues:
        return
    facts = {"action": "runtime_refused", "runtime": runtime, "profiles": sorted(video_profiles)}
    log.warning("video is not built here", extra=facts)
    telemetry.emit("rindle.runtime.refusal", {"surface": "worker", "reason": "ephemeral_runtime", "mode": "warn"})


def _start_push(
    settings: Settings, session: Session, asset_id: str, profile: type[Profile], ready: Collection[str]
) -> None:
    outbox.push_source(session, settings, asset_id, profile, ready)


def activity_slots(settings: Settings, queue: str) -> int:
    """Return how many activities of a queue a worker runs at once.

    A fixed number: a tuner does not see the load of child processes in time.
    """
    if queue == settings.queue():
        return ACTIVITY_SLOTS
    if queue == settings.maintenance_queue:
        return MAINTENANCE_SLOTS
    if queue == settings.provider_queue:
        return PROVIDER_SLOTS
    return settings.av_slots if queue == settings.av_queue else 2 * settings.render_children


class WorkerProcess:
    """One worker process: its task queues, its relay, its render children.

    Args:
        rindle: the application.
        queues: task queues to poll; all of them when left out.
        grace_seconds: time that running work may take to finish when the process stops; 300 s for audio and video, 10 s
            for sweeps and 60 s for other work when left out.
        interceptors: further worker interceptors, innermost last.
        cached_workflows: runs kept in memory between their tasks; with 0 every task is replayed from its history.
    """

    def __init__(
        self,
        rindle: Rindle,
        *,
        queues: Sequence[str] | None = None,
        grace_seconds: float | None = None,
        cached_workflows: int = 1_000,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self.rindle = rindle
        self.settings = rindle.settings
        known = queues_of(self.settings)
        unknown = sorted(set(queues or ()) - set(known))
        if unknown:
            raise InvalidArgument(
                f"unknown task queue {', '.join(unknown)}; this application has {', '.join(known)}",
                detail={"option": "queues", "found": unknown, "known": known},
            )
        self.queues = [queue for queue in known if queues is None or queue in queues]
        self._grace_seconds = grace_seconds
        self._interceptors = tuple(interceptors)
        self._cached_workflows = cached_workflows
        self._health = HealthCheck(rindle.database, rindle.temporal)
        self.relay = Relay(
            rindle.database,
            rindle.temporal,
            self.settings,
            eager=self.settings.queue() in self.queues,
            fairness_key=rindle.services.fairness_key,
        )
        #: Whether all pollers are up.
        self.is_polling = False
        #: ``time.monotonic()`` of the last sign of life of the event loop.
        self.last_beat = time.monotonic()

    def grace_of(self, queue: str) -> float:
        """Return how many seconds running work of a queue may take to finish."""
        if self._grace_seconds is not None:
            return self._grace_seconds
        longer_or_shorter = {
            self.settings.av_queue: AV_GRACE_SECONDS,
            self.settings.maintenance_queue: MAINTENANCE_GRACE_SECONDS,
            self.settings.provider_queue: PROVIDER_GRACE_SECONDS,
        }
        return longer_or_shorter.get(queue, GRACE_SECONDS)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then take no new work, and finish running work or hand it back."""
        warn_of_runtime(self.rindle, self.queues)
        # First: cleaning up a large disk takes time, and the worker must count as alive meanwhile.
        beat = asyncio.create_task(self._beat(), name="rindle-beat")
        parts = WorkerParts(self.rindle)
        await parts.open()
        try:
            client = await self._connect(stop)
            if client is None:
                return
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(parts.watching(client))
                await stack.enter_async_context(parts.cleaning())
                workers = self._workers(client, parts)
                for worker in workers.values():
                    await stack.enter_async_context(worker)
                await stack.enter_async_context(parts.registering())
                if self.settings.maintenance_queue in self.queues:
                    await stack.enter_async_context(parts.scheduling())
                await self.relay.start()
                # Runs first, also after an error: the stack alone would stop one queue after another, and the queues
                # that it has not reached yet would take new tasks until a long build of another queue has ended.
                stack.push_async_callback(self._stop_intake, workers)
                self.is_polling = True
                up = {"action": "worker_up", "queues": self.queues, "temporal": self.rindle.temporal.label}
                log.info("worker is polling", extra=up)
                await stop.wait()
                log.info("worker is stopping", extra={"action": "worker_stopping"})
        finally:
            await run_to_end(self._close(beat, parts))

    async def _stop_intake(self, workers: Mapping[str, Worker]) -> None:
        """Stop the relay and the pollers of all queues at once; returns when the running work of every queue has ended.

        Each queue has its own grace period for running work.
        """

        async def stop_queue(queue: str, worker: Worker) -> None:
            await worker.shutdown()
            log.info("queue has stopped", extra={"action": "queue_stopped", "queue": queue})

        self.is_polling = False
        stopping = [stop_queue(queue, worker) for queue, worker in workers.items()]
        await run_to_end(asyncio.gather(self.relay.stop(), *stopping))

    async def _close(self, beat: asyncio.Task[None], parts: WorkerParts) -> None:
        async with contextlib.AsyncExitStack() as last_first:
            last_first.push_async_callback(self.rindle.close)
            last_first.push_async_callback(parts.close)
            last_first.push_async_callback(cancel_and_wait, beat)

    async def _connect(self, stop: asyncio.Event) -> Client | None:
        """Wait for Temporal without a limit; return ``None`` when ``stop`` is set meanwhile."""
        has_logged = False
        while not stop.is_set():
            try:
                client = await self.rindle.temporal.client()
                if self.settings.search_attributes:
                    await self.rindle.temporal.register_search_attributes()
                return client
            except TemporalUnavailable as error:
                if not has_logged:
                    facts = {"action": "worker_waits", "code": error.code, "reason": error.message}
                    log.warning("waiting for Temporal (%s)", self.rindle.temporal.label, extra=facts)
                has_logged = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONNECT_PAUSE_SECONDS):
                    await stop.wait()
        return None

    def _workers(self, client: Client, parts: WorkerParts) -> dict[str, Worker]:
        """Return the worker of each queue."""
        settings, activities = self.settings, parts.activities()
        workers: dict[str, Worker] = {}
        for queue in self.queues:
            options: dict[str, Any] = {"interceptors": [], "max_concurrent_activities": activity_slots(settings, queue)}
            if registered := workflows_of(settings, queue, is_versioned=deployment_of(settings) is not None):
                options |= self._workflow_options(client, registered)
            options["interceptors"] = [parts.failures, *options["interceptors"], *self._interceptors]
            workers[queue] = Worker(
                client,
                task_queue=queue,
                activities=activities[queue],
                activity_task_poller_behavior=PollerBehaviorAutoscaling(),
                graceful_shutdown_timeout=timedelta(seconds=self.grace_of(queue)),
                max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
                deployment_config=deployment_of(settings),
                **options,
            )
        return workers

    def _workflow_options(self, client: Client, registered: Sequence[type]) -> dict[str, Any]:
        """Return the additional options of the worker of a queue that has workflows."""
        settings = self.settings
        return {
            "workflows": registered,
            "workflow_runner": workflow_runner(client.data_converter),
            "interceptors": workflow_interceptors(settings),
            "max_cached_workflows": self._cached_workflows,
            # How long the next task of a run waits for its cached worker when that one is gone.
            "sticky_queue_schedule_to_start_timeout": timedelta(
                seconds=min(STICKY_SECONDS, settings.heartbeat_seconds or STICKY_SECONDS)
            ),
            "max_concurrent_workflow_tasks": 50,
            "workflow_task_poller_behavior": PollerBehaviorAutoscaling(),
        }

    async def _beat(self) -> None:
        while True:
            self.last_beat = time.monotonic()
            await asyncio.sleep(1)

    async def readiness(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what this process needs but lacks, and warnings about what it can work without.

        It needs ``pollers``, ``database``, ``temporal`` and ``threads``; it is ready when it lacks none of them. Takes
        a few seconds at most.
        """
        found = await self._health.health()
        return (*(() if self.is_polling else ("pollers",)), *found.missing), found.warnings
