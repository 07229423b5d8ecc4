"""Rindle over HTTP: routers for FastAPI, and an ASGI application for everything else.

Needs the extra ``rindle[http]``; ``import rindle`` never loads it.
"""

from __future__ import annotations

from rindle.extras import requires

with requires("http"):
    from rindle.http.assets import assets_router
    from rindle.http.companion import companion_router
    from rindle.http.events import events_router
    from rindle.http.health import health_router
    from rindle.http.local import local_router
    from rindle.http.router import create_asgi_app, create_router
    from rindle.http.script import script_router
    from rindle.http.uploads import upload_router
    from rindle.http.webhooks import provider_webhook_router

__all__ = [
    "assets_router",
    "companion_router",
    "create_asgi_app",
    "create_router",
    "events_router",
    "health_router",
    "local_router",
    "provider_webhook_router",
    "script_router",
    "upload_router",
]
