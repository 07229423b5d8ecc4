"""The services that flows and activities share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from rindle.db.database import Database
from rindle.db.models import MediaAsset, MediaAttachment
from rindle.errors import Misconfigured, UnknownProfile
from rindle.owners import OwnerTypes
from rindle.profile import Profile, ProfileRegistry
from rindle.protocols import Storage, StreamingProvider
from rindle.protocols.checked_storage import checked
from rindle.security import actor_digest, key_segment
from rindle.settings import Settings
from rindle.temporal_client import TemporalConnection

#: ``(asset, attachments, actor, reason)``; raises an exception to refuse. It is called outside a transaction.
ForceDeletePolicy = Callable[[MediaAsset, Sequence[MediaAttachment], str, str], object]


@dataclass(frozen=True)
class Services:
    """The services of one application; the first argument of every flow.

    Attributes:
        storages: adapters by their registered names; a profile names one of them or has its own instance.
        temporal: the connection to Temporal; most flows do not use it.
        secrets: signing secrets, newest first; empty when nothing is signed.
        owner_types: stable names of the classes that own media.
        force_delete_policy: raises an exception to refuse a forced deletion; without it all are refused.
        providers: streaming providers by their names.
    """

    database: Database
    settings: Settings
    profiles: ProfileRegistry
    storages: Mapping[str, Storage]
    temporal: TemporalConnection
    secrets: tuple[str | SecretStr, ...] = field(default=(), repr=False)
    owner_types: OwnerTypes = field(default_factory=OwnerTypes)
    force_delete_policy: ForceDeletePolicy | None = None
    providers: Mapping[str, StreamingProvider] = field(default_factory=dict)

    def profile(self, profile: str | type[Profile]) -> type[Profile]:
        """Return the registered profile class for a class or a stable name.

        Raises:
            UnknownProfile: it is not registered with this ``Rindle``.
        """
        return self.profiles.get(profile)

    def storage_name(self, profile: str | type[Profile]) -> str:
        """Return the registered name of a profile's storage."""
        declared = self.profile(profile).storage
        if isinstance(declared, str):
            return declared
        for name, storage in self.storages.items():
            if storage is declared or (isinstance(declared, type) and type(storage) is declared):
                return name
        raise Misconfigured(f"the storage of profile {self.profile(profile).name!r} is not registered")

    def profile_of_key(self, key: str) -> type[Profile]:
        """Return the profile whose objects have keys that begin as ``key`` does; for rows that name no profile.

        Raises:
            UnknownProfile: no registered profile has such keys, or several have.
        """
        segment = key.partition("/")[0]
        found = [one for one in self.profiles if key_segment(one.name, fallback="profile") == segment]
        if len(found) != 1:
            raise UnknownProfile("no single registered profile has this key", detail={"profile": segment})
        return found[0]

    def storage(self, profile: str | type[Profile]) -> Storage:
        """Return the adapter of a profile; its own exceptions arrive as ``storage_adapter_exception``."""
        name = self.storage_name(profile)
        if name not in self.storages:
            raise Misconfigured(
                f"profile {self.profile(profile).name!r} uses the storage {name!r}, which is not among "
                f"{sorted(self.storages)}; pass it as Rindle(storages={{{name!r}: ...}})"
            )
        return checked(self.storages[name])

    def provider(self, name: str) -> StreamingProvider:
        """Return a streaming provider by its name.

        Raises:
            Misconfigured: it is not registered.
        """
        found = self.providers.get(name)
        if found is None:
            raise Misconfigured(
                f"the streaming provider {name!r} is not among {sorted(self.providers)}; pass it as "
                "Rindle(providers=[...])"
            )
        return found

    def storage_of(self, key: str, asset: MediaAsset | None) -> Storage:
        """Return the adapter of the object at ``key``; its profile is that of the asset, or of its key without one.

        Raises:
            UnknownProfile: the profile is not registered.
        """
        return self.storage(self.profile_of_key(key) if asset is None else asset.profile)

    def fairness_key(self, profile: str | None, actor: str | None) -> str | None:
        """Return under which key Temporal shares its workers fairly: the profile, or the uploader where it says so.

        Temporal shows the key in clear, therefore the uploader is a keyed digest. Without an uploader, a secret or the
        profile (a relay may serve rows of a newer release) the key is the profile.
        """
        by_actor = profile is not None and profile in self.profiles and self.profiles.get(profile).fairness == "actor"
        if by_actor and actor and self.secrets:
            return actor_digest(self.secrets, actor, "fairness")
        return profile

    @property
    def has_authorizers(self) -> bool:
        """Whether the authorizer of any profile decides about deliveries: it is given the owners of an asset."""
        return any(profile.delivery_policy().authorizer is not None for profile in self.profiles)

    def adapter(self, profile: str | type[Profile]) -> str:
        """Return the adapter's name for events."""
        return adapter_name(self.storage(profile))


def adapter_name(storage: Storage) -> str:
    """Return the name an adapter has in events and error messages."""
    return storage.adapter_name or type(storage).__name__


def collect_providers(providers: Iterable[StreamingProvider]) -> dict[str, StreamingProvider]:
    """Return streaming providers by name.

    Raises:
        Misconfigured: two have the same name, or one has an invalid name.
    """
    found: dict[str, StreamingProvider] = {}
    for provider in providers:
        name = getattr(provider, "name", None)
        if not isinstance(provider, StreamingProvider) or not isinstance(name, str):
            raise Misconfigured(f"{type(provider).__name__} is not a StreamingProvider with a name")
        if name in found:
            raise Misconfigured(f"two streaming providers have the name {name!r}")
        found[name] = provider
    return found


def collect_storages(profiles: Iterable[type[Profile]], named: Mapping[str, Storage]) -> dict[str, Storage]:
    """Collect the storages: the named ones and the instances that profiles declare."""
    found = dict(named)
    for profile in profiles:
        declared = profile.storage
        if isinstance(declared, str) or any(storage is declared for storage in found.values()):
            continue
        if isinstance(declared, type):
            if any(type(storage) is declared for storage in found.values()):
                continue
            raise Misconfigured(
                f"profile {profile.name!r} uses the storage class {declared.__name__}, but no instance is registered; "
                "pass one as Rindle(storages={...})"
            )
        found[f"{profile.name}.storage"] = declared
    return found
