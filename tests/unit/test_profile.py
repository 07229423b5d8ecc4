"""Profiles: everything a declaration can get wrong, what is planned, and the registry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import ProfileError, UnknownProfile, UnknownVariant, UploadRejected
from rindle.profile import DeliveryPolicy, Profile, ProfileRegistry
from rindle.protocols import Storage
from rindle.recipes import AudioVariant, ImageVariant
from rindle.security import UploadPolicy
from rindle.states import MediaKind


class Shelf(Storage):
    """A store that is only named here, never used."""


class Guard:
    """An authorizer."""

    def authorize(self, actor: Any, action: str, subject: Any) -> None:
        """Allow."""


class CleanScanner:
    """A scanner."""

    def scan(self, path: Path, *, asset: Any) -> None:
        """Find nothing."""


class Lesson(Profile):
    """One profile with a variant of every kind."""

    name = "lesson"
    storage = "main"
    allow_mime = ["IMAGE/jpg", "video/*", "audio/x-m4a"]
    allow_extensions = ["JPG", " .Mp4 "]
    max_bytes = 1000
    delivery = {"signed_url_ttl_seconds": 60}
    variants = {
        "wave": {"kind": "waveform", "preset": "overview"},
        "thumb": {"mode": "fit", "width": 64, "height": 64},
        "sound": AudioVariant("m4a_128k"),
        "web": {"kind": "video", "preset": "web_720p"},
        "poster": {"kind": "image", "preset": "video_poster_scene"},
        "large": ImageVariant("fit", width=1024),
    }


def problems_of(**attributes: Any) -> list[str]:
    """Declare a profile with these attributes and return what is wrong with it."""
    with pytest.raises(ProfileError) as caught:
        type("Bad", (Profile,), {"storage": "main", "variants": {}, "name": "bad"} | attributes)
    found: list[str] = caught.value.detail["problems"]
    assert all(problem in caught.value.message for problem in found)
    return found


# --- declaration -------------------------------------------------------------------------------------------------


def test_a_good_profile_offers_its_checked_form() -> None:
    assert list(Lesson.variants) == ["large", "poster", "sound", "thumb", "wave", "web"]
    assert Lesson.variants["thumb"] == ImageVariant("fit", 64, 64)
    assert Lesson.upload_policy() == UploadPolicy(
        "lesson", ("image/jpeg", "video/*", "audio/mp4"), (".jpg", ".mp4"), 1000
    )
    assert Lesson.delivery_policy() == DeliveryPolicy(signed_url_ttl_seconds=60)
    assert (Lesson.max_pixels, Lesson.max_duration_seconds, Lesson.placeholder) == (100_000_000, 7200, False)
    assert Lesson.recipe_digest("web") == "7adba05438de4278fad4a4e708b2bfe66b1f35cbf1e80469258fcc886d5725b8"


def test_none_equals_absent() -> None:
    bare = type(
        "Bare",
        (Profile,),
        {"storage": Shelf, "variants": {}}
        | dict.fromkeys(
            [
                "name",
                "allow_mime",
                "allow_extensions",
                "max_bytes",
                "max_pixels",
                "max_duration_seconds",
                "delivery",
                "scanner",
                "analyzer",
                "processor",
                "probe",
                "fairness",
                "placeholder",
                "strict_extension",
            ]
        ),
    )
    assert bare.name == f"{__name__}.Bare"
    assert bare.upload_policy() == UploadPolicy(bare.name)
    assert bare.delivery_policy() == DeliveryPolicy()
    assert bare.fairness == "profile"
    assert (bare.max_pixels, bare.max_duration_seconds, bare.placeholder) == (100_000_000, 7200, False)


def test_fairness_is_by_profile_or_by_actor() -> None:
    assert problems_of(fairness="owner") == ["fairness: must be one of profile, actor, not 'owner'"]


def test_all_problems_are_listed_at_once() -> None:
    found = problems_of(
        storage=None,
        variants={
            "Thumb": {"mode": "fit", "width": 1},
            "all": {"mode": "fit", "width": 1},
            "dyn_x": {"mode": "fit", "width": 1},
            "wrong": {"mode": "zoom", "width": 0, "colour": "red"},
            "odd": 3,
        },
        allow_mime="image/png",
        allow_extensions=["tar.gz", 1],
        max_bytes=0,
        max_pixels=-1,
        max_duration_seconds=1.5,
        delivery={"public": "yes", "ttl": 1, "signed_url_ttl_seconds": 604_801, "authorizer": object()},
        scanner=CleanScanner,
        placeholder="auto",
        strict_extension="no",
        max_byte=5,
        strip_original_metadata="gps",
        dynamic=None,
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "max_byte",
        "strip_original_metadata",
        "dynamic",
        "storage",
        "variants.Thumb",
        "variants.all",
        "variants.dyn_x",
        "variants.wrong.colour",
        "variants.wrong.mode",
        "variants.wrong.width",
        "variants.odd.must be a mapping or a variant object, not int",
        "allow_mime",
        "allow_extensions",
        "allow_extensions",
        "max_bytes",
        "max_pixels",
        "max_duration_seconds",
        "delivery.ttl",
        "delivery.signed_url_ttl_seconds",
        "delivery.public",
        "delivery.authorizer",
        "scanner",
        "placeholder",
        "strict_extension",
    ]


def test_the_error_names_the_profile_and_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"avatar is not valid:\n- variants.thumb.mode: ") as caught:
        type("Bad", (Profile,), {"name": "avatar", "storage": "s", "variants": {"thumb": {"mode": "x", "width": 1}}})
    assert isinstance(caught.value, ProfileError)
    assert caught.value.code == "invalid_profile"


def test_storage_and_variants_are_required() -> None:
    with pytest.raises(ProfileError) as caught:
        type("Bad", (Profile,), {})
    assert [problem.partition(":")[0] for problem in caught.value.detail["problems"]] == ["storage", "variants"]


@pytest.mark.parametrize("storage", [Shelf(), Shelf, "main"])
def test_a_storage_is_an_object_a_class_or_a_name(storage: Any) -> None:
    assert type("P", (Profile,), {"storage": storage, "variants": {}}).storage is storage


@pytest.mark.parametrize("storage", [3, object, " ", Guard()])
def test_anything_else_is_no_storage(storage: Any) -> None:
    assert [problem.partition(":")[0] for problem in problems_of(storage=storage)] == ["storage"]


@pytest.mark.parametrize("name", ["", " ", "a" * 256, "a\nb", 3, "Ж" * 44, "é"])
def test_a_name_is_short_printable_ascii(name: Any) -> None:
    [problem] = problems_of(name=name)
    assert problem.startswith("name: must be ")
    assert isinstance(name, int) or "1 to 255 printable ASCII characters" in problem


def test_a_default_name_that_is_not_valid_must_be_set() -> None:
    with pytest.raises(ProfileError, match=r"the default, module\.QualName, is not: set it"):
        type("Фото", (Profile,), {"storage": "main", "variants": {}})


@pytest.mark.parametrize(
    "name", ["1st", "Thumb", "a-b", "", "a" * 64, "original", "source", "all", "images", "dyn_a", 3]
)
def test_reserved_and_malformed_variant_names_are_refused(name: Any) -> None:
    assert len(problems_of(variants={name: {"mode": "fit", "width": 1}})) == 1


@pytest.mark.parametrize("mime", ["image", "*/*", "image/", "*", "image/p*", "image png"])
def test_a_mime_entry_is_a_type_or_a_family(mime: str) -> None:
    assert [problem.partition(":")[0] for problem in problems_of(allow_mime=[mime])] == ["allow_mime"]


def test_methods_private_names_and_mixins_are_free_but_mixed_in_options_are_checked() -> None:
    class Mixin:
        allow_extensions = ["png"]
        _secret = 1

    class Free(Mixin, Profile):
        storage = "main"
        variants: dict[str, Any] = {}
        _note = "private"

        def method(self) -> None: ...

        @classmethod
        def made(cls) -> None: ...

        @staticmethod
        def plain() -> None: ...

        @property
        def value(self) -> int:
            return 1

    assert Free.upload_policy().allow_extensions == (".png",)

    class Typo:
        allow_extension = ["png"]

    with pytest.raises(ProfileError, match="allow_extension: unknown option"):
        type("Bad", (Typo, Profile), {"storage": "main", "variants": {}})


def test_a_subclass_inherits_everything_but_the_name() -> None:
    class Advanced(Lesson):
        max_bytes = 2000

    assert Advanced.name != "lesson"
    assert Advanced.variants == Lesson.variants
    assert Advanced.delivery_policy() == Lesson.delivery_policy()
    assert Advanced.upload_policy().max_bytes == 2000
    assert Lesson.upload_policy().max_bytes == 1000


def test_scanner_and_authorizer_objects_are_accepted() -> None:
    guard, scanner = Guard(), CleanScanner()
    good = type(
        "Good", (Profile,), {"storage": "s", "variants": {}, "scanner": scanner, "delivery": {"authorizer": guard}}
    )
    assert good.scanner is scanner
    assert good.delivery_policy().authorizer is guard


@pytest.mark.parametrize("mime", ["image/svg+xml", "text/html", "application/xml", "application/javascript"])
def test_active_content_in_public_needs_an_explicit_flag(mime: str) -> None:
    (problem,) = problems_of(allow_mime=[mime], delivery={"public": True})
    assert problem.startswith("allow_mime: ")
    for delivery in ({"public": False}, {"public": True, "allow_active_content": True}):
        type("Good", (Profile,), {"storage": "s", "variants": {}, "allow_mime": [mime], "delivery": delivery})


@pytest.mark.parametrize("option", ["stream", "ttl", "provider"])
def test_unknown_delivery_options_are_refused(option: str) -> None:
    assert [problem.partition(":")[0] for problem in problems_of(delivery={option: None})] == [f"delivery.{option}"]


def test_a_profile_judges_files_by_its_policy(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"<svg/>")
    with pytest.raises(UploadRejected) as caught:
        Lesson.validate_upload(path, "a.jpg")
    assert caught.value.code == "mime_not_allowed"


# --- planning ----------------------------------------------------------------------------------------------------


def test_image_variants_share_one_group_and_each_av_variant_is_its_own() -> None:
    groups = {name: Lesson.group_of(name) for name in Lesson.variants}
    assert groups == {
        "large": "images",
        "thumb": "images",
        "poster": "poster",
        "sound": "sound",
        "wave": "wave",
        "web": "web",
    }


@pytest.mark.parametrize(
    ("kind", "has_video", "has_audio", "names"),
    [
        (MediaKind.IMAGE, None, None, ["large", "thumb"]),
        ("video", True, True, ["poster", "sound", "wave", "web"]),
        ("video", True, False, ["poster", "web"]),
        ("audio", None, True, ["sound", "wave"]),
        ("audio", False, None, ["sound", "wave"]),
    ],
)
def test_only_fitting_variants_are_planned(
    kind: MediaKind | str, has_video: bool | None, has_audio: bool | None, names: list[str]
) -> None:
    applicable, skipped = Lesson.applicable(kind, has_video, has_audio)
    assert applicable == names
    assert sorted([*applicable, *skipped]) == list(Lesson.variants)


def test_a_skipped_variant_says_what_it_needs() -> None:
    assert Lesson.applicable("audio", False, False)[1] == {
        "large": "needs_image",
        "poster": "needs_video_track",
        "sound": "needs_audio_track",
        "thumb": "needs_image",
        "wave": "needs_audio_track",
        "web": "needs_video_track",
    }


def test_the_profile_digest_follows_names_and_recipes_only() -> None:
    def digest(variants: dict[str, Any], **options: Any) -> str:
        return type("P", (Profile,), {"storage": "s", "variants": variants} | options).profile_digest()

    thumb, large = {"mode": "fit", "width": 1}, {"mode": "fit", "width": 2}
    assert digest({"a": thumb, "b": large}) == digest({"b": large, "a": thumb}, max_bytes=1, name="other")
    assert len({digest({}), digest({"a": thumb}), digest({"b": thumb}), digest({"a": large})}) == 4


def test_unknown_variants_are_an_error_of_their_own() -> None:
    for call in (Lesson.spec, Lesson.recipe_digest, Lesson.group_of):
        with pytest.raises(UnknownVariant) as caught:
            call("missing")
        assert caught.value.detail == {"profile": "lesson", "variant": "missing"}


# --- registry ----------------------------------------------------------------------------------------------------


def test_the_registry_finds_by_name_and_by_class() -> None:
    registry = ProfileRegistry([Lesson])
    assert registry.get("lesson") is Lesson
    assert registry.get(Lesson) is Lesson
    assert registry.names == ["lesson"]
    assert list(registry) == [Lesson]
    assert len(registry) == 1
    assert "lesson" in registry
    assert "other" not in registry


def test_an_unregistered_name_or_class_is_an_unknown_profile() -> None:
    class Advanced(Lesson):
        pass

    namesake = type("Namesake", (Lesson,), {"name": "lesson"})
    registry = ProfileRegistry([Lesson])
    for unknown in ("os.path", "x" * 1000, Advanced, namesake, Profile):
        with pytest.raises(UnknownProfile) as caught:
            registry.get(unknown)
        assert len(caught.value.message) < 600


def test_two_profiles_of_one_name_and_strangers_are_refused_together() -> None:
    namesake = type("Namesake", (Lesson,), {"name": "lesson"})
    strangers: list[Any] = [Lesson, namesake, Profile, dict]
    with pytest.raises(ProfileError) as caught:
        ProfileRegistry(strangers)
    assert len(caught.value.detail["problems"]) == 3
    assert f"{__name__}.Lesson" in caught.value.message


def test_importing_profiles_and_security_loads_no_media_library() -> None:
    code = (
        "import sys, rindle.profile, rindle.presets, rindle.security;"
        # SQLAlchemy and Temporal come with the package itself; media libraries and web frameworks never do.
        "bad = {'magic', 'pyvips', 'boto3', 'fastapi', 'pi_heif', 'PIL', 'jinja2'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
