"""The calls of ``Rindle`` that deliver: URLs and markup.

Signatures and documentation only. What may be served and how a URL is made is in :mod:`.urls`, HTML in :mod:`.markup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rindle.db.ids import AssetOrId
from rindle.db.models import MediaVariant
from rindle.delivery import markup, playback, urls
from rindle.delivery.playback import PlaybackURL
from rindle.profile import Profile
from rindle.services import Services


class DeliveryCalls:
    """The part of :class:`rindle.Rindle` that delivers."""

    services: Services

    async def url(
        self,
        profile: str | type[Profile],
        asset_or_key: AssetOrId,
        *,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        allow_unvalidated: bool = False,
    ) -> str:
        """Return a URL of an original; see :func:`rindle.delivery.urls.url`.

        Example:
            href = await rindle.url("avatar", asset, expires_in=300, disposition="attachment", filename="ada.jpg")
            link = f'<a href="{escape(href)}">Download</a>'
        """
        return await urls.url(
            self.services,
            profile,
            asset_or_key,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            allow_unvalidated=allow_unvalidated,
        )

    async def variant_url(
        self,
        profile: str | type[Profile],
        asset: AssetOrId,
        variant: MediaVariant | str,
        *,
        actor: Any = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
    ) -> str:
        """Return a URL of a variant, or of its fallback; see :func:`rindle.delivery.urls.variant_url`.

        Example:
            src = await rindle.variant_url("avatar", asset, "thumb")
            image = f'<img src="{escape(src)}" alt="Ada">'
        """
        return await urls.variant_url(
            self.services,
            profile,
            asset,
            variant,
            actor=actor,
            stale_mode=stale_mode,
            fallback=fallback,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
        )

    async def streaming_url(
        self,
        profile: str | type[Profile],
        asset_or_key: AssetOrId | MediaVariant,
        *,
        actor: Any = None,
        strict: bool = False,
        mime: str | None = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
    ) -> PlaybackURL:
        """Return the address that a player loads: the provider's HLS playlist, or the original.

        Without ``delivery.streaming`` in the profile it is the original, and so it is before the asset was given to the
        provider. The authorizer decides before the provider signs anything.

        Args:
            asset_or_key: an asset, its id or one of its variants; a storage key only without a streaming provider.
            actor: see :func:`rindle.delivery.urls.url`, also for ``disposition`` and ``filename``, which have no effect
                on a playlist.
            strict: raise instead of returning the original when the provider does not have the asset.
            mime: media type of the original in the result; that of the asset when left out.
            expires_in: lifetime in seconds, 1 to 604800; when left out ``playback_ttl_seconds`` of the streaming policy
                and then the profile's ``signed_url_ttl_seconds``. It must outlive the playback.

        Returns:
            a :class:`~rindle.delivery.playback.PlaybackURL`: ``url``, ``kind`` (``hls`` or ``progressive``), ``mime``
            and ``expires_at``.

        Raises:
            ProviderAssetNotReady: the provider has nothing to play yet, or not any more.
            ProviderSyncFailed: the provider could not prepare the asset, or the profile changed since it was pushed.
            StreamingRequiresAsset: a key was passed, and the profile streams.
            Unauthorized: and the other errors of :func:`rindle.delivery.urls.url`.

        Example:
            found = await rindle.streaming_url("talk", audio)
            source = f'<source src="{escape(found.url)}" type="{found.mime}">'
        """
        options = urls.UrlOptions(actor, expires_in, disposition, filename)
        return await playback.streaming_url(self.services, profile, asset_or_key, options, strict=strict, mime=mime)

    async def picture_tag(
        self,
        profile: str | type[Profile],
        asset: AssetOrId | None,
        variants: Sequence[Any] = (),
        *,
        width: int | str | bool | None = None,
        height: int | str | bool | None = None,
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        on_error: str = "placeholder",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<picture>`` markup of an asset; see :func:`rindle.delivery.markup.picture_tag`.

        Example:
            html = await rindle.picture_tag("avatar", asset, ["thumb"], attrs={"alt": "Ada"}, class_="round")
            assert html.startswith("<picture>")
        """
        return await markup.picture_tag(
            self.services,
            profile,
            asset,
            variants,
            width=width,
            height=height,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            on_error=on_error,
            attrs=attrs,
            **more_attrs,
        )

    async def video_tag(
        self,
        profile: str | type[Profile],
        asset: AssetOrId | None,
        variants: Sequence[Any] = (),
        *,
        poster: str | None = None,
        tracks: Sequence[Mapping[str, Any]] = (),
        width: int | str | bool | None = None,
        height: int | str | bool | None = None,
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        on_error: str = "placeholder",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<video>`` markup of an asset; see :func:`rindle.delivery.markup.video_tag`.

        Example:
            html = await rindle.video_tag("lesson", video, ["web_720p"], poster="poster", preload="none")
            assert html.startswith("<video")
        """
        return await markup.video_tag(
            self.services,
            profile,
            asset,
            variants,
            poster=poster,
            tracks=tracks,
            width=width,
            height=height,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            on_error=on_error,
            attrs=attrs,
            **more_attrs,
        )

    async def audio_tag(
        self,
        profile: str | type[Profile],
        asset: AssetOrId | None,
        variants: Sequence[Any] = (),
        *,
        tracks: Sequence[Mapping[str, Any]] = (),
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        on_error: str = "placeholder",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<audio>`` markup of an asset; see :func:`rindle.delivery.markup.audio_tag`.

        Example:
            html = await rindle.audio_tag("talk", audio, ["m4a"], controls=True)
            assert html.startswith("<audio")
        """
        return await markup.audio_tag(
            self.services,
            profile,
            asset,
            variants,
            tracks=tracks,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            on_error=on_error,
            attrs=attrs,
            **more_attrs,
        )
