"""Contract suites for plug-ins: what the pipeline relies on, as tests you inherit.

::

    class TestMyScanner(ScannerContract):
        @pytest.fixture
        def scanner(self) -> Scanner:
            return MyScanner()

        @pytest.fixture
        def clean_file(self, tmp_path): ...

        @pytest.fixture
        def condemned_file(self, tmp_path): ...

Every suite calls the plug-in the way the pipeline does: with local paths, sync or async, more than once. They need
pytest
with ``asyncio_mode = "auto"``. Stores have a suite of their own, ``rindle.testing.storage_contract``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rindle.capabilities import PROCESSOR_CAPABILITIES
from rindle.errors import ContentRejected, RindleError, Unauthorized
from rindle.plugins import Kind, call
from rindle.protocols import (
    Analyzer,
    Authorizer,
    DeliverySubject,
    Probe,
    ProbeResult,
    Processor,
    Quarantine,
    Scanner,
)
from rindle.recipes import VariantSpec
from rindle.states import MediaKind


class ScannerContract:
    """A scanner returns ``None`` for clean and raises ``Quarantine`` to condemn, again and again."""

    @pytest.fixture
    def scanner(self) -> Scanner:
        """Return the scanner under test."""
        raise NotImplementedError

    @pytest.fixture
    def clean_file(self, tmp_path: Path) -> Path:
        """Return a file the scanner finds clean; a harmless text unless overridden."""
        path = tmp_path / "clean"
        path.write_bytes(b"nothing to see")
        return path

    @pytest.fixture
    def condemned_file(self, tmp_path: Path) -> Path:
        """Return a file the scanner condemns."""
        raise NotImplementedError

    async def test_it_is_a_scanner(self, scanner: Scanner) -> None:
        """It has the method of the protocol."""
        assert isinstance(scanner, Scanner)

    async def test_clean_is_none_and_nothing_else(self, scanner: Scanner, clean_file: Path) -> None:
        """Any other answer counts as a failed scanner."""
        before = clean_file.read_bytes()
        for _ in range(2):
            answer = await call(Kind.SCAN, scanner.scan, clean_file, asset=None)
            assert answer is None
        assert clean_file.read_bytes() == before

    async def test_a_verdict_is_a_quarantine_with_a_reason(self, scanner: Scanner, condemned_file: Path) -> None:
        """Other exceptions would be taken for an outage and asked again for a day."""
        for _ in range(2):
            with pytest.raises(Quarantine) as verdict:
                await call(Kind.SCAN, scanner.scan, condemned_file, asset=None)
            assert verdict.value.message

    async def test_a_missing_file_is_never_clean(self, scanner: Scanner, tmp_path: Path) -> None:
        """A scanner that cannot read must not let through."""
        with pytest.raises(Exception):  # noqa: B017 - whatever it raises, it fails closed
            await call(Kind.SCAN, scanner.scan, tmp_path / "missing", asset=None)


class ProbeContract:
    """A probe says which types it reads, returns facts, and condemns what is broken."""

    #: A sniffed type the probe accepts.
    mime: str

    @pytest.fixture
    def probe(self) -> Probe:
        """Return the probe under test."""
        raise NotImplementedError

    @pytest.fixture
    def good_file(self, tmp_path: Path) -> Path:
        """Return a whole file of the type ``mime``."""
        raise NotImplementedError

    @pytest.fixture
    def broken_file(self, good_file: Path, tmp_path: Path) -> Path:
        """Return a damaged file; the first bytes of the good one unless overridden."""
        path = tmp_path / "broken"
        path.write_bytes(good_file.read_bytes()[:16])
        return path

    async def test_it_is_a_probe_of_its_type_only(self, probe: Probe) -> None:
        """It does not claim types it cannot read."""
        assert isinstance(probe, Probe)
        assert probe.accepts(self.mime)
        assert not probe.accepts("application/x-of-nobody")

    async def test_the_facts_fit_their_kind(self, probe: Probe, good_file: Path) -> None:
        """What a kind cannot have stays ``None``: the rows' constraints refuse it."""
        facts = await call(Kind.PROBE, probe.probe, good_file)
        assert isinstance(facts, ProbeResult)
        assert isinstance(facts.kind, MediaKind)
        for size in (facts.width, facts.height, facts.duration_ms):
            assert size is None or (isinstance(size, int) and size >= 0)
        if facts.kind is MediaKind.AUDIO:
            assert (facts.width, facts.height, facts.has_video_track) == (None, None, None)
        if facts.kind is MediaKind.IMAGE:
            assert (facts.duration_ms, facts.has_video_track, facts.has_audio_track) == (None, None, None)
        json.dumps(dict(facts.metadata))

    async def test_a_broken_file_is_condemned(self, probe: Probe, broken_file: Path) -> None:
        """A verdict quarantines; any other exception is retried."""
        with pytest.raises(ContentRejected):
            await call(Kind.PROBE, probe.probe, broken_file)


class AnalyzerContract:
    """An analyzer returns a JSON document and leaves the file alone."""

    @pytest.fixture
    def analyzer(self) -> Analyzer:
        """Return the analyzer under test."""
        raise NotImplementedError

    @pytest.fixture
    def analyzed_file(self, tmp_path: Path) -> tuple[Path, ProbeResult]:
        """Return a file and the facts its probe would give."""
        raise NotImplementedError

    async def test_the_answer_is_json_and_stable(
        self, analyzer: Analyzer, analyzed_file: tuple[Path, ProbeResult]
    ) -> None:
        """A repeated promotion must not change what is stored."""
        path, facts = analyzed_file
        before = path.read_bytes()
        first = await call(Kind.ANALYZE, analyzer.analyze, path, facts)
        again = await call(Kind.ANALYZE, analyzer.analyze, path, facts)
        assert isinstance(analyzer, Analyzer)
        assert json.loads(json.dumps(dict(first))) == dict(again)
        assert path.read_bytes() == before


class ProcessorContract:
    """A processor builds from paths, can be run again, and says in our errors why it cannot."""

    @pytest.fixture
    def processor(self) -> Processor:
        """Return the processor under test."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Return an original it can work on."""
        raise NotImplementedError

    @pytest.fixture
    def recipe(self) -> VariantSpec:
        """Return a recipe it can build."""
        raise NotImplementedError

    async def _build(self, processor: Processor, source: Path, recipe: VariantSpec, dest: Path) -> list[int]:
        told: list[int] = []
        await call(Kind.PROCESS, processor.process, source, recipe, dest, progress=told.append, cancelled=lambda: False)
        return told

    async def test_it_declares_capabilities_of_the_vocabulary(self, processor: Processor, recipe: VariantSpec) -> None:
        """A capability nobody knows is never asked for; one that is missing refuses the variant."""
        assert isinstance(processor, Processor)
        assert set(processor.capabilities) <= PROCESSOR_CAPABILITIES
        assert recipe.required_capabilities <= processor.capabilities

    async def test_it_writes_the_destination_and_nothing_beside_it(
        self, processor: Processor, source: Path, recipe: VariantSpec, tmp_path: Path
    ) -> None:
        """Twice, since a build may be repeated; the original stays as it is."""
        before = source.read_bytes()
        directory = tmp_path / "out"
        directory.mkdir()
        dest = directory / f"made{recipe.extension}"
        for _ in range(2):
            told = await self._build(processor, source, recipe, dest)
            assert dest.stat().st_size > 0
            assert all(0 <= percent <= 99 for percent in told)
            assert [entry.name for entry in directory.iterdir()] == [dest.name]
        assert source.read_bytes() == before

    async def test_a_broken_original_is_an_error_of_ours(
        self, processor: Processor, recipe: VariantSpec, tmp_path: Path
    ) -> None:
        """Anything else is reported as ``unexpected`` and tried again in vain."""
        broken = tmp_path / "broken"
        broken.write_bytes(b"\x00" * 64)
        with pytest.raises(RindleError):
            await self._build(processor, broken, recipe, tmp_path / f"never{recipe.extension}")


class AuthorizerContract:
    """An authorizer returns to allow, and raises ``Unauthorized`` or returns ``False`` to deny."""

    @pytest.fixture
    def authorizer(self) -> Authorizer:
        """Return the authorizer under test."""
        raise NotImplementedError

    @pytest.fixture
    def allowed(self) -> tuple[Any, str, DeliverySubject]:
        """Return an actor, an action and a subject it allows."""
        raise NotImplementedError

    @pytest.fixture
    def denied(self) -> tuple[Any, str, DeliverySubject]:
        """Return an actor, an action and a subject it denies."""
        raise NotImplementedError

    async def test_allowing_is_returning(
        self, authorizer: Authorizer, allowed: tuple[Any, str, DeliverySubject]
    ) -> None:
        """``None`` and ``True`` allow."""
        assert isinstance(authorizer, Authorizer)
        assert await call(Kind.AUTHORIZE, authorizer.authorize, *allowed) in (None, True)

    async def test_denying_is_raising_or_false(
        self, authorizer: Authorizer, denied: tuple[Any, str, DeliverySubject]
    ) -> None:
        """``None`` would allow; any other exception denies too, and is logged as a broken authorizer."""
        try:
            answer = await call(Kind.AUTHORIZE, authorizer.authorize, *denied)
        except Unauthorized:
            return
        assert answer is False
