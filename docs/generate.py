"""Writes the parts of the documentation that come from code: ``python -m docs.generate`` from the repository's root.

A page contains marks, and this program replaces everything between them::

    <!-- generated: settings -->
    <!-- end -->
    <!-- code: examples/extending/scanner.py#EicarScanner -->
    <!-- end -->

The first mark inserts a table of this file, the second a source file (or one class or function of it). The results are
committed, so that the pages are complete in the repository. ``--check`` writes nothing and fails when a part is out of
date; ``tests/architecture/test_docs.py`` runs it. The Python blocks of all pages also become a module that type checkers
read (``docs/typed.py``).
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hashlib
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from docs import typed

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

_MARK = re.compile(
    r"(?P<open><!-- (?P<kind>generated|code): (?P<name>\S+) -->\n)(?P<body>.*?)(?P<close><!-- end -->)", re.DOTALL
)
_LANGUAGES = {".py": "python", ".html": "html", ".js": "javascript", ".css": "css", ".svg": "xml", ".yml": "yaml"}


def pages() -> list[Path]:
    """Return every page, in a stable order."""
    return sorted(DOCS.rglob("*.md"))


def rendered(page: Path) -> str:
    """Return the text that ``page`` should have."""

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        body = BLOCKS[name]() if found["kind"] == "generated" else _code(name)
        return f"{found['open']}\n{body.strip()}\n\n{found['close']}"

    return _MARK.sub(fill, page.read_text())


def main() -> int:
    """Write the parts that changed, or with ``--check`` list them; returns the exit code."""
    check = "--check" in sys.argv[1:]
    wanted = {page: rendered(page) for page in pages()}
    wanted |= {DOCS / "diagrams" / f"{name}.mmd": text for name, text in diagrams().items()}
    wanted[typed.TARGET] = typed.module_of([ROOT / "README.md", *pages()])
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(wanted[path])
    if check and stale:
        print("update them with: python -m docs.generate")
    sources = sorted((DOCS / "diagrams").glob("*.mmd"))
    drawings = [path for path in sources if digest(path.read_text()) not in _drawing(path)]
    for path in drawings:
        print(f"{path.with_suffix('.svg').name} is not drawn from {path.name}; run docs/diagrams/draw.py")
    return int(bool(check and stale) or bool(drawings))


def _drawing(source: Path) -> str:
    path = source.with_suffix(".svg")
    return path.read_text() if path.is_file() else ""


def digest(text: str) -> str:
    """Return the mark in a drawing that identifies its source text."""
    return hashlib.sha256(text.encode()).hexdigest()


# --- pieces ------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _plain(text: str) -> str:
    """Turn a docstring's markup into Markdown."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text)
    text = text.replace("``", "`")
    # A link without a target on these pages becomes a name.
    return re.sub(r"`rindle\.(?:errors|protocols|profile)\.(\w+)`", r"`\1`", text)


def _first(documented: Any) -> str:
    """Return the first sentence of a docstring."""
    text = _plain(" ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split()))
    return re.split(r"(?<=\.)\s", text)[0]


def _section(documented: Any, title: str) -> dict[str, str]:
    """Return the entries of one section (``Attributes``, ``Args``) of a Google-style docstring."""
    found: dict[str, str] = {}
    inside, name = False, ""
    for line in (inspect.getdoc(documented) or "").splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            inside = line == f"{title}:"
        elif inside and (entry := re.match(r"    (\w+): (.*)", line)):
            name = entry[1]
            found[name] = entry[2]
        elif inside and name and line.strip():
            found[name] += " " + line.strip()
    return {key: _plain(text) for key, text in found.items()}


def example_of(documented: Any) -> str:
    """Return the code of the section ``Example``, which comes last in a docstring; empty where there is none."""
    return textwrap.dedent((inspect.getdoc(documented) or "").partition("\nExample:\n")[2]).strip()


def _code(reference: str) -> str:
    name, _, symbol = reference.partition("#")
    path = ROOT / name
    text = path.read_text()
    if symbol:
        found = next(
            node for node in ast.parse(text).body if getattr(node, "name", None) == symbol and hasattr(node, "lineno")
        )
        decorators = [one.lineno for one in getattr(found, "decorator_list", [])]
        start = min([found.lineno, *decorators])
        text = "\n".join(text.splitlines()[start - 1 : found.end_lineno])
    return f"```{_LANGUAGES[path.suffix]}\n{text.rstrip()}\n```"


def _names(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _seconds(value: timedelta | None) -> str:
    if value is None:
        return "–"
    seconds = value.total_seconds()
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


# --- states ------------------------------------------------------------------------------------------------------


def diagrams() -> dict[str, str]:
    """Return the state machines as Mermaid text, by name."""
    from rindle import states

    machines: dict[str, tuple[Mapping[Any, frozenset[Any]], str]] = {
        "asset": (states.ASSET_MOVES, "staged"),
        "variant": (states.VARIANT_MOVES, "planned"),
        "session": (states.SESSION_MOVES, "initialized"),
    }
    return {name: _machine(*machine) for name, machine in machines.items()}


def _machine(moves: Mapping[Any, frozenset[Any]], first: str) -> str:
    order = list(moves)
    lines = ["stateDiagram-v2", f"    [*] --> {first}"]
    for state, targets in moves.items():
        lines += [f"    {state} --> {target}" for target in sorted(targets, key=order.index)]
        lines += [] if targets else [f"    {state} --> [*]"]
    return "\n".join(lines) + "\n"


def _moves(name: str) -> str:
    from rindle import states

    moves: Mapping[Any, frozenset[Any]] = getattr(states, name)
    order = list(moves)
    return _table(
        ("from", "to"),
        ((f"`{state}`", _names(sorted(targets, key=order.index)) or "nothing") for state, targets in moves.items()),
    )


def _served() -> str:
    from rindle.states import DELIVERABLE, UNVALIDATED, AssetState

    def answer(state: AssetState) -> str:
        if state in DELIVERABLE:
            return "original and ready variants"
        return "nothing yet: `asset_not_deliverable`" if state in UNVALIDATED else "nothing: `asset_not_deliverable`"

    return _table(("state", "what may be served"), ((f"`{state}`", answer(state)) for state in AssetState))


# --- profiles ----------------------------------------------------------------------------------------------------


def _profile_options() -> str:
    from rindle import Profile

    meanings = _section(Profile, "Attributes")
    names = [name for name in inspect.get_annotations(Profile) if not name.startswith("_")]
    return _table(
        ("option", "default", "meaning"),
        ((f"`{name}`", _default(getattr(Profile, name, dataclasses.MISSING)), meanings[name]) for name in names),
    )


def _default(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "–"
    if dataclasses.is_dataclass(value):
        return "private"
    return f"`{value!r}`"


def _recipe(name: str) -> Callable[[], str]:
    def made() -> str:
        from rindle import profile

        recipe = getattr(profile, name)
        meanings = _section(recipe, "Attributes")
        return _table(
            ("option", "default", "meaning"),
            (
                (f"`{field.name}`", _default(field.default), meanings[field.name])
                for field in dataclasses.fields(recipe)
            ),
        )

    return made


# --- capabilities ------------------------------------------------------------------------------------------------

_STORAGE_CAPABILITIES = {
    "presigned_put": "one PUT to a signed URL: direct uploads",
    "presigned_post": "one form with a signed policy: single files of Uppy",
    "signed_url": "URLs that expire: private delivery",
    "public_url": "URLs without a signature: public delivery",
    "head": "size, type and ETag without reading the object; every store needs it",
    "read_range": "reading a part of an object; every store needs it",
    "write_once": "creating an object without ever replacing one",
    "local": "objects are files of this machine and are read in place, without a copy",
    "response_headers": "type and disposition bound into a signed URL",
    "multipart_upload": "objects that clients send in parts (`MultipartUploads`)",
    "resumable_upload": "sessions of the store that clients continue: to begin one (`ResumableSessions`)",
    "resumable_upload_session": "the same: their status, and to cancel one (`ResumableSessions`)",
    "tus_upload": "bytes that arrive in several requests, through the application (`PartStream`)",
    "concatenate": "objects made from others in the store (`Concatenation`)",
}
_PROCESSOR_CAPABILITIES = {
    "image_resize": "image variants of an image",
    "video_transcode": "video variants of a video",
    "video_frame_extract": "a poster of a video",
    "video_thumbnail_strip": "a strip of frames of a video",
    "audio_transcode": "audio variants of audio or video",
    "audio_normalize": "audio with normalized loudness",
    "audio_waveform": "the waveform of an audio track",
}


def _storage_capabilities() -> str:
    from rindle.capabilities import STORAGE_CAPABILITIES, capabilities_of
    from rindle.storage.gcs import GCSStorage
    from rindle.storage.local import LocalStorage
    from rindle.storage.memory import MemoryStorage
    from rindle.storage.s3 import S3Storage

    secret = "a secret that signs nothing: this page only"
    local = (
        LocalStorage("media"),
        LocalStorage("media", base_url="https://example.com/m", secrets=[secret], public_base_url="https://e.com/p"),
    )
    s3 = (S3Storage("bucket", write_once=False), S3Storage("bucket", public_base_url="https://cdn.example.com"))
    gcs = (GCSStorage("bucket"), GCSStorage("bucket", public_base_url="https://cdn.example.com"))
    memory = (MemoryStorage(), MemoryStorage())

    def has(pair: tuple[Any, Any], name: str) -> str:
        plain, full = pair
        return "yes" if name in capabilities_of(plain) else "by option" if name in capabilities_of(full) else "–"

    if set(_STORAGE_CAPABILITIES) != STORAGE_CAPABILITIES:
        raise SystemExit("docs/generate.py explains other storage capabilities than there are")
    return _table(
        ("capability", "meaning", "LocalStorage", "S3Storage", "GCSStorage", "MemoryStorage"),
        (
            (f"`{name}`", meaning, *(has(pair, name) for pair in (local, s3, gcs, memory)))
            for name, meaning in _STORAGE_CAPABILITIES.items()
        ),
    )


def _processor_capabilities() -> str:
    from rindle import AudioVariant, FrameVariant, ImageVariant, VideoVariant, WaveformVariant
    from rindle.capabilities import PROCESSOR_CAPABILITIES

    if set(_PROCESSOR_CAPABILITIES) != PROCESSOR_CAPABILITIES:
        raise SystemExit("docs/generate.py explains other processor capabilities than there are")
    specs = {
        "any image variant": ImageVariant(mode="fit", width=1),
        "`video_poster_scene`": FrameVariant("video_poster_scene"),
        "`video_thumbnail_strip`": FrameVariant("video_thumbnail_strip"),
        "`web_720p`, `web_480p`": VideoVariant("web_720p"),
        "`m4a_128k`, `mp3_128k`": AudioVariant("m4a_128k"),
        "the same with `normalize`": AudioVariant("m4a_128k", normalize=True),
        "`overview`": WaveformVariant(),
    }
    return _table(
        ("capability", "meaning", "variants that need it", "bundled processor"),
        (
            (
                f"`{name}`",
                meaning,
                ", ".join(label for label, spec in specs.items() if name in spec.required_capabilities),
                "yes" if name == "image_resize" else "yes, with ffmpeg",
            )
            for name, meaning in _PROCESSOR_CAPABILITIES.items()
        ),
    )


# --- errors, events, settings ------------------------------------------------------------------------------------

#: Meaning of each code of a class with several codes; the other codes take the first sentence of their class.
_REASONS = {
    "unknown_mime": "The bytes match no known type.",
    "mime_not_allowed": "The profile does not accept the type of the bytes.",
    "extension_not_allowed": "The profile does not accept the extension of the file name.",
    "extension_mime_mismatch": "The extension and the bytes have different types, and not both are images (unless the profile is strict).",
    "missing_extension": "The profile requires an extension and the file name has none.",
    "max_bytes_exceeded": "The file has more bytes than the profile, the signature or the route allows.",
    "size_mismatch": "The number of bytes differs from the announced size.",
    "digest_mismatch": "The bytes do not have the digest that the client gave when it created the upload (`Repr-Digest`).",
    "empty_upload": "The upload has no bytes.",
    "scanner_rejected": "The profile's scanner rejected the file.",
    "upload_unsupported": "The storage does not support this upload method (`detail.capability`).",
    "delivery_unsupported": "The storage cannot create such a URL (`detail.capability`).",
    "missing_bucket": "No bucket is named, or the named one does not exist.",
    "gcs_unconfigured": "There are no usable Google credentials.",
    "gcs_signing_key_invalid": "The signing key is no key, or the credentials cannot sign.",
    "camera_raw": "The file holds the raw data of a camera (DNG, NEF and others).",
    "codec_not_allowed": "A track of the file uses a codec that Rindle does not decode (`detail.codec`).",
    "content_too_complex": "The file needs more work than any ordinary file: too many scans, frames or pages, or too much CPU time.",
    "decode_failed": "The file is damaged or incomplete, or its content does not match its first bytes.",
    "decoder_failed": "A decoder raised an unexpected exception on the file; it is not tried again.",
    "max_pixels_exceeded": "One frame has more pixels than the profile or the global ceiling allows.",
    "media_too_long": "The duration is above the profile's `max_duration_seconds`.",
    "no_probe_for_mime": "No probe can read this type.",
    "object_changed_after_verify": "The object is not the one that was verified, or it is gone.",
    "strip_unsupported": "Metadata of this type cannot be removed without decoding it.",
    "unsupported_variant_of_format": "The file is not damaged, but its compression, codec or colour mode is not read.",
    "missing_protocol_whitelist": "An ffmpeg command line has no lists of protocols, formats and codecs.",
    "unsupported_ingest_format": "An ffmpeg command line would open a playlist, or a container by name.",
    "invalid_older_than": "The filter `older_than` has a wrong value.",
    "invalid_limit": "The filter `limit` has a wrong value.",
    "invalid_format": "The filter `format` has a wrong value.",
    "tus_version_unsupported": "The request names another version of tus than 1.0.0, or none.",
    "tus_method_not_allowed": "The address has no requests of this method.",
    "tus_url_signature_invalid": "The address is not signed by this site: it was changed or cut.",
    "tus_session_not_found": "There is no upload at the address, or it is the upload of another actor.",
    "tus_session_expired": "The upload has ended without its object; the client starts a new one.",
    "tus_content_type_unsupported": "The bytes come with another `Content-Type` than `application/offset+octet-stream`.",
    "tus_offset_conflict": "The upload has another offset than the request names; the client looks it up and continues there.",
    "tus_size_exceeded": "The upload has, or would get, more bytes than it may have (`detail.limit`).",
    "tus_upload_closed": "The upload takes no bytes: it is made of others, or its bytes were refused.",
    "tus_checksum_mismatch": "The bytes of the request do not have the checksum of its header; none is kept.",
    "tus_locked": "Another request continues the upload; the same request succeeds after it.",
}


def _errors() -> str:
    from rindle import errors

    if set(_REASONS) != {code for cls in errors.CODES.values() for code in cls.codes}:
        raise SystemExit("docs/generate.py explains other reasons than there are")
    parts: list[str] = []
    for branch in errors.RindleError.__subclasses__():
        if branch.__module__ != errors.__name__:
            continue
        rows = [
            (
                f"`{code}`",
                f"`{cls.__name__}`",
                str(errors.http_status_of(code)),
                "yes" if cls.retryable else "no",
                _REASONS.get(code) or _first(cls),
            )
            for code, cls in errors.CODES.items()
            if issubclass(cls, branch)
        ]
        parts += [f"## {branch.__name__}", _first(branch), _table(("code", "class", "HTTP", "retry", "meaning"), rows)]
    return "\n\n".join(parts)


#: Parameters of the sentences in the documentation, as a rejection of each code has them.
_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "codec_not_allowed": {"codec": "cinepak"},
    "content_too_complex": {"part": "scans", "limit": 100},
    "decode_failed": {"format": "image/jpeg"},
    "decoder_failed": {"format": "image/heic"},
    "digest_mismatch": {"algorithm": "sha-256"},
    "extension_mime_mismatch": {"found": ".mp4", "limit": "image/jpeg"},
    "extension_not_allowed": {"found": ".gif", "limit": [".jpg", ".png"]},
    "max_bytes_exceeded": {"limit": 5_000_000, "found": 7_300_000},
    "max_pixels_exceeded": {"limit": 100_000_000, "found": 120_000_000, "width": 12_000, "height": 10_000},
    "media_too_long": {"limit": 600_000, "found": 754_000},
    "mime_not_allowed": {"found": "application/pdf", "limit": ["image/jpeg", "image/png"]},
    "missing_extension": {"limit": [".jpg", ".png"]},
    "no_probe_for_mime": {"mime": "image/bmp"},
    "size_mismatch": {"expected": 1000, "found": 900},
    "unsupported_variant_of_format": {"format": "image/tiff"},
}


def _rejections() -> str:
    from rindle.rejections import SENTENCES

    return _table(
        ("code", "parameters", "message for the uploader, for example"),
        (
            (f"`{code}`", _names(_PARAMETERS.get(code, {})) or "–", SENTENCES[code](_PARAMETERS.get(code, {})))
            for code in sorted(SENTENCES)
        ),
    )


def _telemetry() -> str:
    from rindle.events import PUBLIC_EVENTS

    return _table(
        ("event", "metadata", "measurements"),
        (
            (f"`{name}`", _names((*contract.metadata, *contract.optional)), _names(contract.measurements) or "–")
            for name, contract in PUBLIC_EVENTS.items()
        ),
    )


def _event_rows() -> str:
    from rindle.events import EVENT_TYPES

    return _table(
        ("type", "found under", "payload", "for pages"),
        (
            (f"`{name}`", _names(kind.scopes), _names(kind.payload), "yes" if kind.streamed else "audit only")
            for name, kind in EVENT_TYPES.items()
        ),
    )


#: Meaning of the settings that have no comment in the code, because name and range are almost enough.
_SETTINGS = {
    "upload_session_ttl_seconds": "Lifetime of an upload session.",
    "presigned_put_ttl_seconds": "Lifetime of a signed PUT, never longer than its session.",
    "signed_url_ttl_seconds": "Lifetime of a signed URL if neither the profile nor the call sets one.",
    "auto_verify_max_seconds": "Longest pause between these requests.",
    "task_queue_prefix": "Prefix of the names of all task queues, so that two applications may share a namespace.",
    "workflow_id_prefix": "Prefix of all workflow ids, for the same reason.",
    "build_id": "Build of this worker, with the name of the deployment.",
    "health_address": "`host:port` of the worker's `/livez` and `/readyz`; off when not set.",
    "metrics_address": "`host:port` of Temporal's Prometheus metrics; off when not set.",
    "search_attributes": "Register and set the search attributes; set it to false if the namespace refuses them.",
    "render_probe_seconds": "Longest time for reading one uploaded image in a render child.",
    "render_wall_seconds": "Longest time for one image in a render child.",
    "render_memory_bytes": "Address space of one render child.",
    "source_cache_bytes": "Size of a worker host's cache of originals; 0 keeps none.",
    "source_cache_age_seconds": "Age after which a cached original is deleted.",
    "scanner_timeout_seconds": "Longest time for one scan; after it, the scan has no result and is retried.",
    "relay_poll_seconds": "Pause between two queries of the outbox while there is work.",
    "relay_idle_poll_seconds": "Longest pause while there is no work.",
    "temporal_connect_seconds": "Longest time for one attempt to reach Temporal.",
    "sync_threads": "Threads for SQL on a synchronous engine.",
}


def _settings() -> str:
    from rindle.settings import Settings

    commented = _field_comments(ROOT / "rindle" / "settings.py", "Settings")
    rows = []
    for name, field in Settings.model_fields.items():
        meaning = _SETTINGS.get(name) or commented.get(name)
        if not meaning:
            raise SystemExit(f"the setting {name} is explained neither in rindle/settings.py nor in docs/generate.py")
        rows.append((f"`RINDLE_{name.upper()}`", _setting_default(field), _range(field), _plain(meaning)))
    if unknown := set(_SETTINGS) - set(Settings.model_fields):
        raise SystemExit(f"docs/generate.py explains settings that do not exist: {unknown}")
    return _table(("variable", "default", "range", "meaning"), rows)


def _setting_default(field: Any) -> str:
    if field.default_factory is not None:
        return "the system's"
    value = field.default
    if value is None or value == ():
        return "–"
    if isinstance(value, Path):
        return f"`{value.as_posix()}`"
    return f"`{value}`" if not isinstance(value, bool) else f"`{str(value).lower()}`"


def _range(field: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(one, name):g}" for one in field.metadata for name, sign in signs.items() if hasattr(one, name)
    ]
    return ", ".join(limits) or "–"


def _field_comments(path: Path, cls: str) -> dict[str, str]:
    """Return the ``#:`` comments above the fields of a class."""
    lines = path.read_text().splitlines()
    found: dict[str, str] = {}
    body = next(
        node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.ClassDef) and node.name == cls
    )
    for field in body.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        above, comment = field.lineno - 2, []
        while lines[above].strip().startswith("#:"):
            comment.insert(0, lines[above].strip().removeprefix("#:").strip())
            above -= 1
        if comment:
            found[field.target.id] = " ".join(comment)
    return found


# --- models ------------------------------------------------------------------------------------------------------


def models() -> list[type[Any]]:
    """Return the mapped classes in the order of the source."""
    from rindle.db import models as source

    return [one for one in vars(source).values() if inspect.isclass(one) and hasattr(one, "__tablename__")]


def column_comments(model: type[Any]) -> dict[str, str]:
    """Return the ``#:`` comments of the columns of a model, by attribute; a column without one is left out."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if cls.__module__ == model.__module__:
            found |= _field_comments(ROOT / "rindle" / "db" / "models.py", cls.__name__)
    return found


def _models() -> str:
    from sqlalchemy import inspect as mapper_of

    parts: list[str] = []
    for model in models():
        comments, rows = column_comments(model), []
        for attribute in mapper_of(model).column_attrs:
            [column] = attribute.columns
            meaning = comments.get(attribute.key)
            if meaning is None:
                raise SystemExit(f"{model.__name__}.{attribute.key} has no comment in rindle/db/models.py")
            null = "yes" if column.nullable else "–"
            rows.append((f"`{attribute.key}`", _column_type(column), null, _plain(meaning)))
        parts += [
            f"## {model.__name__}",
            f"{_first(model)} Table `{model.__tablename__}`.",
            _table(("attribute", "type", "NULL", "meaning"), rows),
        ]
    return "\n\n".join(parts)


def _column_type(column: Any) -> str:
    from sqlalchemy import JSON, BigInteger, Boolean, Integer, String, Text
    from sqlalchemy.dialects.sqlite import dialect

    from rindle.db.models import Id, JsonDocument, Note, UtcDateTime

    stored = column.type
    if isinstance(stored, JsonDocument | Note):
        stored = stored.load_dialect_impl(dialect())

    if column.foreign_keys:
        [key] = column.foreign_keys
        return f"UUID of `{key.column.table.name}`"
    names: dict[type[Any], str] = {
        Boolean: "boolean",
        JSON: "JSON",
        Text: "text",
        Id: "UUID",
        UtcDateTime: "time, UTC",
        BigInteger: "integer, 64 bits",
        Integer: "integer",
        String: f"text, {getattr(stored, 'length', None)} characters",
    }
    return next(name for kind, name in names.items() if isinstance(stored, kind))


# --- workflows ---------------------------------------------------------------------------------------------------


def _workflows() -> str:
    from temporalio import workflow

    from rindle import workflows
    from rindle.settings import Settings
    from rindle.workflows import ids

    made = {
        "UploadWorkflow": ids.upload_id("{session_id}"),
        "VariantWorkflow": ids.variants_id("{asset_id}", "{group}"),
        "ProviderPushWorkflow": ids.provider_push_id("{asset_id}", "{provider}"),
        "ProviderUploadWorkflow": ids.provider_upload_id("{asset_id}"),
        "PurgeWorkflow": ids.purge_id("{asset_id}"),
        "OwnerErasureWorkflow": ids.erasure_id("{operation_id}"),
        "MaintenanceWorkflow": ids.maintenance_id("{verb}"),
    }
    rows = []
    for cls in workflows.ALL:
        facts = workflow._Definition.must_from_class(cls)
        rows.append(
            (
                f"`{facts.name}`",
                f"`{made[cls.__name__]}`",
                _names(sorted(name for name in facts.signals if name)) or "–",
                _names(sorted(name for name in facts.updates if name)) or "–",
                _names(sorted(name for name in facts.queries if name)),
                _first(cls),
            )
        )
    settings = Settings(secrets=())
    queue = (
        f"All of them run on the task queue `{settings.queue()}`, but for `MaintenanceWorkflow`: it runs on "
        f"`{settings.maintenance_queue}`."
    )
    return _table(("type", "id", "signals", "updates", "queries", "what it does"), rows) + f"\n\n{queue}"


def _handlers() -> str:
    from temporalio import workflow

    from rindle import workflows

    rows = []
    for cls in workflows.ALL:
        facts = workflow._Definition.must_from_class(cls)
        for kind, found in (("signal", facts.signals), ("update", facts.updates), ("query", facts.queries)):
            for name, handler in sorted(found.items(), key=lambda one: str(one[0])):
                function = handler.fn
                parameters = [one for one in inspect.signature(function).parameters if one != "self"]
                rows.append((f"`{cls.__name__}`", kind, f"`{name}({', '.join(parameters)})`", _first(function)))
    return _table(("workflow", "kind", "name", "meaning"), rows)


#: Activities whose policy is not written beside their name.
_SQL_STEPS = ("READ_GROUP", "REQUEUE_GROUP", "CANCEL_GROUP", "FAIL_GROUP")


def _policies() -> str:
    from rindle import messages
    from rindle.workflows import policies

    users: dict[str, set[str]] = {"DB_STEP": {getattr(messages, name) for name in _SQL_STEPS}}
    for module in sorted((ROOT / "rindle" / "workflows").glob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            parts = node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            names = {one.value.id: one.attr for one in parts if isinstance(one, ast.Attribute) and _is_name(one.value)}
            if "messages" in names and "policies" in names:
                users.setdefault(names["policies"], set()).add(getattr(messages, names["messages"]))
    configured = {name: found for name, found in vars(policies).items() if isinstance(found, dict) and name.isupper()}
    rows = []
    for name, policy in configured.items():
        retry = policy["retry_policy"]
        rows.append(
            (
                ", ".join(f"`{one.removeprefix('rindle.')}`" for one in sorted(users[name])),
                _seconds(policy.get("start_to_close_timeout")),
                _seconds(policy.get("heartbeat_timeout")),
                f"{_seconds(retry.initial_interval)} to {_seconds(retry.maximum_interval)}",
                _seconds(policy.get("schedule_to_close_timeout")).replace("–", "never"),
            )
        )
    listed = {one for names in users.values() for one in names}
    wire = {value for name, value in vars(messages).items() if name.isupper() and str(value).startswith("rindle.")}
    if missing := {one for one in wire if not one.endswith("Workflow")} - listed:
        raise SystemExit(f"no policy found for the activities {missing}")
    return _table(("activities", "one attempt", "heartbeat", "pause between attempts", "gives up after"), rows)


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def _search_attributes() -> str:
    from rindle.workflows import ids

    meanings = {
        "RindleKind": "`upload`, `variants` or `purge`",
        "RindleProfile": "name of the profile",
        "RindleAssetId": "id of the asset",
        "RindleSessionId": "id of the upload session; uploads only",
        "RindleState": "outcome of a run that did not end as usual: `quarantined`, `failed`, `cancelled`, `expired`, …",
    }
    return _table(
        ("search attribute", "value"),
        ((f"`{key.name}`", meanings[key.name]) for key in ids.SEARCH_ATTRIBUTES),
    )


# --- operations --------------------------------------------------------------------------------------------------


def _example_application() -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    from rindle import Profile, Rindle, Settings
    from rindle.storage.local import LocalStorage
    from rindle.streaming.memory import InMemoryProvider

    secret = "a secret that signs nothing: this page only"
    store = LocalStorage("media", base_url="https://example.com/media/local", secrets=[secret])

    class Photo(Profile):
        name = "photo"
        storage = "media"
        variants = {"thumb": {"mode": "fit", "width": 64}, "outline": {"kind": "waveform"}}

    settings = Settings(secrets=(), tmp_dir=Path(tempfile.gettempdir()))
    engine = create_async_engine("sqlite+aiosqlite://")
    return Rindle(
        engine=engine,
        profiles=[Photo],
        providers=[InMemoryProvider()],
        storages={"media": store},
        settings=settings,
        secrets=[secret],
    ), Photo


_CHECKS = {
    "db.clock": "The clocks of the database and of this host agree: expiry times depend on it.",
    "db.connect": "The application's engine reaches its database.",
    "db.migrations": "Rindle's tables are at this release's revision.",
    "db.notifications": "Notifications of Postgres arrive: the driver can LISTEN, and no pooler drops them.",
    "db.schema": "All tables, columns, keys and indexes exist.",
    "delivery.local_endpoint": "Local storage has an address and secrets; `--live` also requests the address.",
    "delivery.playback_ttl": "With a streaming provider: no video is longer than the lifetime of its playback token.",
    "delivery.support": "Every profile's storage can deliver as the profile requires, privately or publicly.",
    "libmagic": "The library that detects types from bytes works.",
    "ffmpeg.version": "ffmpeg and ffprobe are installed, new enough and without known holes; an error only if a profile needs them.",
    "ffmpeg.features": "ffmpeg has the encoders and filters that the profiles' variants need.",
    "profiles.runtime_fit": "Audio and video can be built: enough disk space, and no platform that stops processes.",
    "media.isolation": "The kernel lets decoders run without network, privileges and access to the worker's memory.",
    "libvips.features": "libvips has no known holes, blocks untrusted loaders and writes the formats that profiles use.",
    "outbox.backlog": "No row waits too long: a warning from 60 s, an error from 600 s and for parked rows.",
    "profiles.capability_mismatch": "Storages and processors can do what the profiles declare.",
    "profiles.unregistered": "Every asset has a registered profile: a warning with a count for each other one.",
    "profiles.load": "The requested profiles are registered.",
    "security.secrets": "Signing secrets are set and long enough.",
    "storage.media.reachable": "The storage named `media` answers; one check per storage.",
    "storage.media.setup": "For buckets (`SetupCheck`): credentials that sign, the clock, the rules for browsers (CORS) and for what ended uploads left.",
    "storage.media.round_trip": "With `--live`: a small object is written, read, fetched by URL and deleted.",
    "streaming.credentials": "With a streaming provider: its credentials are set.",
    "streaming.orphans": "With a streaming provider: no deletion there has been waiting for more than an hour.",
    "streaming.signing_key": "With a streaming provider: the signing key is RSA with 2048 bits or more, signs and verifies.",
    "streaming.smoke_ping": "With `--streaming`: each streaming provider accepts a request that changes nothing.",
    "streaming.webhook_secrets": "With a streaming provider: there are secrets of webhooks, and none is short.",
    "storage.media.multipart": "With `--live`, for storages with `multipart_upload`: the credentials may begin, list, complete and abort uploads in parts, and a part can be sent.",
    "storage.media.tus": "With `--live`, for storages with `tus_upload`: bytes of a request that broke off are kept, continued and removed.",
    "temp.dir": "The scratch directory is writable and has enough space.",
    "temporal.pollers": "Workers poll every task queue; `--no-workers` expects none.",
    "temporal.reachable": "The Temporal server and namespace respond, and keep histories for at least a day.",
    "temporal.schedules": "The schedules of sweeps exist, are those of this release, are not paused, and did not fail.",
    "temporal.search_attributes": "The namespace has the search attributes.",
    "temporal.worker_versions": "The version of the workers that poll is the one that gets new work, where workers are versioned.",
}


def _checks() -> str:
    rindle, _ = _example_application()

    async def ids() -> list[str]:
        try:
            return [check.id for check in (await rindle.doctor(live=True, offline=True)).checks]
        finally:
            await rindle.close()

    there = [*asyncio.run(ids()), "storage.media.multipart", "storage.media.setup"]  # local files have neither
    if sorted(_CHECKS) != sorted(there):
        raise SystemExit(f"docs/generate.py explains other checks than there are: {set(_CHECKS) ^ set(there)}")
    return _table(("check", "what it verifies"), ((f"`{name}`", _CHECKS[name]) for name in sorted(there)))


def _findings() -> str:
    from rindle.operations.remedies import REMEDIES

    return _table(
        ("finding", "what it means", "alert", "command"),
        (
            (
                f"`{name}`",
                f"{remedy.summary[0].upper()}{remedy.summary[1:]}.",
                "yes" if remedy.is_alert else "–",
                f"`{remedy.command}`",
            )
            for name, remedy in REMEDIES.items()
        ),
    )


def _commands() -> str:
    import click

    from rindle.cli.commands import rindle

    def listed(group: click.Group, prefix: str) -> Iterable[tuple[str, str]]:
        for name, command in sorted(group.commands.items()):
            if isinstance(command, click.Group):
                yield from listed(command, f"{prefix} {name}")
                continue
            arguments = [
                one.make_metavar(click.Context(command)) for one in command.params if isinstance(one, click.Argument)
            ]
            words = " ".join([prefix, name, *arguments])
            yield f"`{words}`", (command.help or "").partition("\n\n")[0]

    return _table(("command", "what it does"), listed(rindle, "rindle"))


def _routes() -> str:
    from fastapi import FastAPI

    from rindle.http import create_router

    rindle, photo = _example_application()
    app = FastAPI()
    app.include_router(create_router(rindle, profiles={"photo": photo}, allow_anonymous=True), prefix="/media")
    rows = []
    for path, methods in app.openapi()["paths"].items():
        for method, facts in methods.items():
            answers = [status for status in facts["responses"] if status[0] in "23"]
            rows.append(
                (f"`{method.upper()} {path}`", facts["summary"], ", ".join(answers), f"`{facts['operationId']}`")
            )
    return _table(("route", "what it does", "success", "operation id"), rows)


# --- names -------------------------------------------------------------------------------------------------------


def _exports() -> str:
    import rindle

    meanings = {
        "UNCHECKED": "Value of `uploaded_by` for trusted code that has checked the asset itself.",
        "__version__": "Version of this release.",
    }
    return _table(
        ("name", "what it is"),
        ((f"`{name}`", meanings.get(name) or _first(getattr(rindle, name))) for name in rindle.__all__),
    )


def _public_calls() -> Iterable[tuple[str, Any]]:
    """Yield the methods of ``Rindle`` in the order of the guide: its own, then those of its parts."""
    from rindle import Rindle

    for cls in Rindle.__mro__[:-1]:
        for name, member in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(member):
                yield name, member


def _calls() -> str:
    rows = []
    for name, member in _public_calls():
        parameters = [
            one.name if one.kind is not inspect.Parameter.VAR_KEYWORD else f"**{one.name}"
            for one in inspect.signature(member).parameters.values()
            if one.name not in ("self", "others")  # ``others`` takes no keyword: it refuses the unknown ones
        ]
        awaited = "await " if inspect.iscoroutinefunction(member) else ""
        rows.append((f"`{awaited}rindle.{name}({', '.join(parameters)})`", _first(member)))
    return _table(("call", "what the caller gets"), rows)


def _call_examples() -> str:
    shown = []
    for name, member in _public_calls():
        code = example_of(member)
        if not code:
            raise SystemExit(f"Rindle.{name} has no example in its docstring")
        shown.append(f"# {name}\n{code}")
    return "```python\n" + "\n\n".join(shown) + "\n```"


def _transaction_recipes() -> str:
    from rindle import Rindle

    recipes = {"an AsyncSession": Rindle.attach, "a Session": inspect.getattr_static(Rindle, "attachments")}
    shown = [f"# with {kind}\n{example_of(documented)}" for kind, documented in recipes.items()]
    return "```python\n" + "\n\n".join(shown) + "\n```"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "asset_moves": lambda: _moves("ASSET_MOVES"),
    "call_examples": _call_examples,
    "calls": _calls,
    "checks": _checks,
    "commands": _commands,
    "delivery_options": _recipe("DeliveryPolicy"),
    "errors": _errors,
    "event_rows": _event_rows,
    "exports": _exports,
    "findings": _findings,
    "handlers": _handlers,
    "models": _models,
    "policies": _policies,
    "processor_capabilities": _processor_capabilities,
    "profile_options": _profile_options,
    "recipe_audio": _recipe("AudioVariant"),
    "recipe_frame": _recipe("FrameVariant"),
    "recipe_image": _recipe("ImageVariant"),
    "recipe_video": _recipe("VideoVariant"),
    "recipe_waveform": _recipe("WaveformVariant"),
    "rejections": _rejections,
    "routes": _routes,
    "search_attributes": _search_attributes,
    "served": _served,
    "session_moves": lambda: _moves("SESSION_MOVES"),
    "settings": _settings,
    "storage_capabilities": _storage_capabilities,
    "transaction_recipes": _transaction_recipes,
    "telemetry": _telemetry,
    "variant_moves": lambda: _moves("VARIANT_MOVES"),
    "workflows": _workflows,
}


if __name__ == "__main__":
    from rindle.process import leave  # the generators import Temporal's runtime

    leave(main())
