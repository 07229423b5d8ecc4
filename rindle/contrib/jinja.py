"""Jinja2: the media tags as globals of a template environment. The tags are in ``delivery.markup``."""

from __future__ import annotations

from rindle.app import Rindle
from rindle.errors import Misconfigured
from rindle.extras import requires

with requires("http"):
    from jinja2 import Environment

__all__ = ["install_jinja"]


def install_jinja(env: Environment, rindle: Rindle) -> None:
    """Make the three tags globals of a Jinja2 environment: ``{{ picture_tag("avatar", user.avatar, ["thumb"]) }}``.

    Args:
        env: made with ``enable_async=True``; its templates are rendered with ``render_async``. In synchronous templates
            await ``rindle.picture_tag(...)`` in the view instead and pass the result.
        rindle: the application.

    Raises:
        Misconfigured: the environment is synchronous.
    """
    if not env.is_async:
        raise Misconfigured(
            "the Jinja2 environment is synchronous: create it with Environment(enable_async=True), or await "
            "rindle.picture_tag(...) in the view and pass the result to the template"
        )
    env.globals.update(picture_tag=rindle.picture_tag, video_tag=rindle.video_tag, audio_tag=rindle.audio_tag)
