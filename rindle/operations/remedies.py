"""The repair command of each class of finding, as used by ``runtime_status`` and ``explain``.

The queries behind the findings are in ``findings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rindle.settings import Settings
from rindle.states import VariantState

#: Word in a command that stands for the id of the asset concerned.
_ASSET = "ASSET"


@dataclass(frozen=True, slots=True)
class Remedy:
    """Meaning of a class of finding, and the command that repairs it.

    Attributes:
        action: the verb in one word.
        command: the command line; ``ASSET`` stands for an asset's id, ``WORKFLOW`` for the id of a run's workflow.
        summary: what the finding means.
        is_alert: whether users wait and nothing continues without an operator; the class of ``--fail-on alert``.
        setting: name of the setting that replaces ``command``, where only the operator knows the command.
    """

    action: str
    command: str
    summary: str
    is_alert: bool = True
    setting: str | None = None

    def surface(self, settings: Settings) -> str:
        """Return the command line of this installation."""
        configured = None if self.setting is None else getattr(settings, self.setting)
        return configured or self.command

    def command_for(self, asset_id: str, settings: Settings) -> str:
        """Return the command line that repairs one asset."""
        return self.surface(settings).replace(_ASSET, asset_id)


_REQUEUE = "rindle requeue ASSET"
_RESUME = "rindle resume ASSET"
_DRAIN = "rindle outbox drain"
_PURGE = "rindle purge --retry --execute"
_REGENERATE = "rindle regenerate-variants"
_PROVIDER_SYNC = "rindle provider-sync"

#: ``requeue`` without variant names queues failed and cancelled variants; ``regenerate`` queues stale and missing ones.
REMEDIES: Mapping[str, Remedy] = {
    "cancelled_work": Remedy(
        "requeue", _REQUEUE, "builds were cancelled lately; requeue them to build again", is_alert=False
    ),
    "deletion_failing": Remedy(
        "purge", _PURGE, "objects of deleted assets cannot be deleted; fix the cause, and the purge continues"
    ),
    "erasure_stuck": Remedy(
        "erase", "rindle erase-owners --retry --execute", "owner erasures have not ended, but no run works on them"
    ),
    "failed_work": Remedy(
        "requeue", _REQUEUE, "builds failed permanently; fix the cause, then requeue", is_alert=False
    ),
    "no_worker": Remedy(
        "start",
        "python -m rindle.cli.worker",
        "tasks wait in a queue that no worker polls; start workers with the same RINDLE_TASK_QUEUE_PREFIX",
        setting="start_worker_command",
    ),
    "orphan_event": Remedy(
        "resync",
        _PROVIDER_SYNC,
        "webhooks came for assets that this application does not know; another one may share the provider's account",
        is_alert=False,
    ),
    "orphan_suspect": Remedy("resume", _RESUME, "builds are marked as processing, but no run works on them"),
    "outbox_parked": Remedy("drain", _DRAIN, "Temporal rejected these rows as invalid; drain retries them"),
    "outbox_stalled": Remedy("drain", _DRAIN, "no relay has sent these rows; start a worker or drain them"),
    "probe_drift": Remedy(
        "reprobe",
        "rindle reprobe ASSET",
        "technical facts of originals are missing or contradict their type",
        is_alert=False,
    ),
    "profile_unregistered": Remedy(
        "register",
        "rindle doctor --only profiles.unregistered",
        "assets have a profile that this application does not register; add its class to Rindle(profiles=[...])",
    ),
    "provider_cleanup_pending": Remedy(
        "resync", _PROVIDER_SYNC, "deleted assets may still have a copy at their streaming provider", is_alert=False
    ),
    "provider_stuck": Remedy("resync", _PROVIDER_SYNC, "assets have not changed at their streaming provider for hours"),
    "purge_stuck": Remedy("purge", _PURGE, "deleted assets still have rows and maybe objects"),
    "queue_starved": Remedy("resume", _RESUME, "builds are queued, but no run is active"),
    "recipe_drift": Remedy("regenerate", _REGENERATE, "variants were built from an older recipe", is_alert=False),
    "release_failing": Remedy(
        "resume", _RESUME, "objects of ended uploads cannot be deleted; fix the cause, and the run continues"
    ),
    "retrying": Remedy(
        "diagnose",
        "rindle doctor",
        "steps fail and are retried; repair the cause on the worker that is named, and they continue by themselves",
    ),
    "run_without_rows": Remedy(
        "terminate",
        "temporal workflow terminate --workflow-id WORKFLOW",
        "runs are open although the rows of their asset or upload are gone; they do nothing any more",
        is_alert=False,
    ),
    "session_overdue": Remedy("resume", _RESUME, "uploads are past their expiry but were not ended"),
    "session_residue": Remedy("resume", _RESUME, "ended uploads may have left bytes in the store"),
    "storage_drift": Remedy("regenerate", _REGENERATE, "objects of variants are missing from the store"),
    "stuck_promotion": Remedy("resume", _RESUME, "validation of the upload failed; fix the cause, then resume"),
    "temporal_unreachable": Remedy(
        "start",
        "rindle doctor --only temporal.reachable",
        "Temporal does not answer; start its server, and all work continues",
        setting="start_temporal_command",
    ),
    "workflow_missing": Remedy("resume", _RESUME, "uploads wait for validation, but no run is active"),
}

#: Variant states that are findings at any age.
FINDING_OF_VARIANT: Mapping[VariantState, str] = {
    VariantState.CANCELLED: "cancelled_work",
    VariantState.FAILED: "failed_work",
    VariantState.MISSING: "storage_drift",
    VariantState.STALE: "recipe_drift",
}
