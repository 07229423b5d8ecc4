"""What an operator does about each class of finding: the one table behind ``runtime_status`` and ``explain``.

How a finding is found is the business of ``findings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rindle.states import VariantState

#: Word in a command that stands for the id of the asset concerned.
_ASSET = "ASSET"


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a class of finding means, and what repairs it.

    Attributes:
        action: the verb in one word.
        command: the command line; ``ASSET`` stands for an asset's id.
        summary: what the finding means.
    """

    action: str
    command: str
    summary: str

    def command_for(self, asset_id: str) -> str:
        """Return the command line that repairs one asset."""
        return self.command.replace(_ASSET, asset_id)


_REQUEUE = "rindle requeue ASSET"
_RESUME = "rindle resume ASSET"
_DRAIN = "rindle outbox drain"
_PURGE = "rindle purge --retry --execute"
_REGENERATE = "rindle regenerate-variants"

#: ``requeue`` builds again what failed or was cancelled; what is stale or gone is queued by ``regenerate``, which
#: ``requeue`` without the names of variants leaves alone.
REMEDIES: Mapping[str, Remedy] = {
    "cancelled_work": Remedy("requeue", _REQUEUE, "builds were cancelled and stay so until they are requeued"),
    "failed_work": Remedy("requeue", _REQUEUE, "builds failed for good; mend the cause, then requeue"),
    "orphan_suspect": Remedy("resume", _RESUME, "builds look busy, but no run works on them"),
    "outbox_parked": Remedy("drain", _DRAIN, "Temporal refused these rows as invalid; drain tries them again"),
    "outbox_stalled": Remedy("drain", _DRAIN, "no relay has sent these rows; start a worker or drain by hand"),
    "purge_stuck": Remedy("purge", _PURGE, "deleted assets still have rows and maybe objects"),
    "queue_starved": Remedy("resume", _RESUME, "builds wait, but no run is there to take them"),
    "recipe_drift": Remedy("regenerate", _REGENERATE, "variants were built from an older recipe"),
    "session_overdue": Remedy("resume", _RESUME, "uploads are past their expiry and nobody has ended them"),
    "session_residue": Remedy("resume", _RESUME, "ended uploads may have left bytes in the store"),
    "storage_drift": Remedy("regenerate", _REGENERATE, "objects of variants are gone from the store"),
    "stuck_promotion": Remedy("resume", _RESUME, "judging the upload gave up; mend the cause, then resume"),
    "workflow_missing": Remedy("resume", _RESUME, "uploads wait for judgement, but no run is there to do it"),
}

#: Variant states that are findings by themselves, however old.
FINDING_OF_VARIANT: Mapping[VariantState, str] = {
    VariantState.CANCELLED: "cancelled_work",
    VariantState.FAILED: "failed_work",
    VariantState.MISSING: "storage_drift",
    VariantState.STALE: "recipe_drift",
}
