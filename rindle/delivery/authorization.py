"""Asking an Authorizer, so that anything but a clear yes is a no."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from rindle.errors import Unauthorized
from rindle.protocols import Authorizer

log = logging.getLogger(__name__)


async def authorize(authorizer: Authorizer | None, actor: Any, action: str, subject: Any) -> None:
    """Return when ``actor`` may do ``action``; sync and async authorizers are accepted, ``None`` lets everybody.

    Args:
        authorizer: the application's; ``None`` when there is none.
        actor: whatever the application calls its users; handed over as it is.
        action: ``deliver``, ``read``, ``operate`` or ``upload.*``.
        subject: a ``DeliverySubject``, ``UploadSubject`` or ``AssetSubject``.

    Raises:
        Unauthorized: denied. What the authorizer raised itself keeps its code; answering ``False`` denies, and so does
            any other exception, which is logged by its class name only.
    """
    if authorizer is None:
        return
    try:
        answer = authorizer.authorize(actor, action, subject)
        if inspect.isawaitable(answer):
            answer = await answer
    except Unauthorized:
        raise
    except Exception as error:  # fail closed: an authorizer that is broken must not open the door
        log.error("authorizer failed, access denied", extra={"action": action, "error": type(error).__name__})
        # Without its cause: a traceback of the denial must not tell what the authorizer's exception said.
        raise Unauthorized from None
    # None is the plain return that allows; every false value beside it denies, so that ``return user.is_admin`` works.
    if answer is not None and not answer:
        raise Unauthorized
