"""The pages of sweeps as an activity runs them: the composition gives :class:`SweepSteps` to the activities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from rindle.errors import InvalidArgument
from rindle.messages import SweepOrder, SweepPage
from rindle.operations.maintenance.runs import check_beside
from rindle.operations.maintenance.sweep import Sweep, SweepOptions, SweepReport, SweepRun, one_page
from rindle.services import Services

O = TypeVar("O", bound=SweepOptions)  # noqa: E741 - options
R = TypeVar("R", bound=SweepReport)


class SweepSteps:
    """What the activity of ``MaintenanceWorkflow`` runs.

    Args:
        services: the application's collaborators.
        sweeps: the sweeps of this release.
    """

    def __init__(self, services: Services, sweeps: Iterable[Sweep[Any, Any]]) -> None:
        self._services = services
        self._sweeps = {sweep.name: sweep for sweep in sweeps}

    async def page(self, order: SweepOrder) -> SweepPage:
        """Do the page that ``order`` names.

        Raises:
            InvalidArgument: no sweep has that name, or its options are not valid.
            MaintenanceRunning: it does not start during another sweep, which is running.
            RindleError: the items of the page could not be read.
        """
        sweep = self._sweeps.get(order.verb)
        if sweep is None:
            known = sorted(self._sweeps)
            raise InvalidArgument(
                f"this worker has no sweep {order.verb!r}; it has {', '.join(known)}",
                detail={"option": "verb", "known": known},
            )
        options = parsed_options(sweep, order.options)
        if not order.cursor:
            await check_beside(self._services, sweep)
        return await one_page(SweepRun(self._services, options, order.started_at), sweep, order.cursor)


def parsed_options(sweep: Sweep[O, R], values: Mapping[str, Any]) -> O:
    """Return the options that ``values`` name.

    Raises:
        InvalidArgument: the sweep has no such option, or a value is not valid; the message repeats no value.
    """
    try:
        return sweep.options.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found]
        raise InvalidArgument(
            f"options of {sweep.name} are not valid: {'; '.join(problems)}", detail={"option": "options"}
        ) from None
