"""What repairs need of the originals: an interface, because only workers have the programs that read media."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rindle.db.models import MediaAsset
from rindle.errors import Misconfigured


class Originals(Protocol):
    """Reads originals (:class:`rindle.activities.originals.OriginalReader`); the composition provides it."""

    async def facts(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Return the columns of an asset that a probe of its original gives; raises a ``RindleError``."""

    async def analysis(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Return what the analyzer of its profile finds; raises a ``RindleError``."""


class ReadElsewhere:
    """Stands for the originals in a process that starts sweeps but runs none of their pages."""

    async def facts(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Raise ``Misconfigured``."""
        raise _elsewhere()

    async def analysis(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Raise ``Misconfigured``."""
        raise _elsewhere()


def _elsewhere() -> Misconfigured:
    return Misconfigured("originals are read by workers; this process cannot read them")
