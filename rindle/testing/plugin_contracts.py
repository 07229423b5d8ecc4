"""Contract suites for plug-ins: the requirements of the pipeline, as tests to inherit.

::

    class TestMyScanner(ScannerContract):
        @pytest.fixture
        def scanner(self) -> Scanner:
            return MyScanner()

        @pytest.fixture
        def clean_file(self, tmp_path): ...

        @pytest.fixture
        def rejected_file(self, tmp_path): ...

Every suite calls the plug-in as the pipeline does: with local paths, sync or async, more than once. The suites need
pytest with ``asyncio_mode = "auto"``. Stores have their own suite, ``rindle.testing.storage_contract``.
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
    """A scanner returns ``None`` for a clean file and raises ``Quarantine`` to reject one, each time."""

    @pytest.fixture
    def scanner(self) -> Scanner:
        """Return the scanner under test."""
        raise NotImplementedError

    @pytest.fixture
    def clean_file(self, tmp_path: Path) -> Path:
        """Return a file that the scanner accepts; a harmless text file by default."""
        path = tmp_path / "clean"
        path.write_bytes(b"nothing to see")
        return path

    @pytest.fixture
    def rejected_file(self, tmp_path: Path) -> Path:
        """Return a file that the scanner rejects."""
        raise NotImplementedError

    async def test_it_is_a_scanner(self, scanner: Scanner) -> None:
        """It has the method of the protocol."""
        assert isinstance(scanner, Scanner)

    async def test_clean_is_none_and_nothing_else(self, scanner: Scanner, clean_file: Path) -> None:
        """Any other result counts as a failed scan."""
        before = clean_file.read_bytes()
        for _ in range(2):
            result = await call(Kind.SCAN, scanner.scan, clean_file, asset=None)
            assert result is None
        assert clean_file.read_bytes() == before

    async def test_a_rejection_is_a_quarantine_with_a_reason(self, scanner: Scanner, rejected_file: Path) -> None:
        """Other exceptions count as an outage: the scan is retried for a day."""
        for _ in range(2):
            with pytest.raises(Quarantine) as rejection:
                await call(Kind.SCAN, scanner.scan, rejected_file, asset=None)
            assert rejection.value.message

    async def test_a_missing_file_is_never_clean(self, scanner: Scanner, tmp_path: Path) -> None:
        """A scanner that cannot read a file must not accept it."""
        with pytest.raises(Exception):  # noqa: B017 - any exception fails closed
            await call(Kind.SCAN, scanner.scan, tmp_path / "missing", asset=None)


class ProbeContract:
    """A probe declares the types it reads, returns facts, and rejects damaged files."""

    #: A sniffed type the probe accepts.
    mime: str

    @pytest.fixture
    def probe(self) -> Probe:
        """Return the probe under test."""
        raise NotImplementedError

    @pytest.fixture
    def good_file(self, tmp_path: Path) -> Path:
        """Return an intact file of the type ``mime``."""
        raise NotImplementedError

    @pytest.fixture
    def broken_file(self, good_file: Path, tmp_path: Path) -> Path:
        """Return a damaged file; the first bytes of the good one by default."""
        path = tmp_path / "broken"
        path.write_bytes(good_file.read_bytes()[:16])
        return path

    async def test_it_is_a_probe_of_its_type_only(self, probe: Probe) -> None:
        """It does not claim types it cannot read."""
        assert isinstance(probe, Probe)
        assert probe.accepts(self.mime)
        assert not probe.accepts("application/x-unknown")

    async def test_the_facts_fit_their_kind(self, probe: Probe, good_file: Path) -> None:
        """A fact that a kind cannot have is ``None``: the constraints of the rows refuse it."""
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

    async def test_a_broken_file_is_rejected(self, probe: Probe, broken_file: Path) -> None:
        """``ContentRejected`` quarantines the asset; any other exception is retried."""
        with pytest.raises(ContentRejected):
            await call(Kind.PROBE, probe.probe, broken_file)


class AnalyzerContract:
    """An analyzer returns a JSON document and does not change the file."""

    @pytest.fixture
    def analyzer(self) -> Analyzer:
        """Return the analyzer under test."""
        raise NotImplementedError

    @pytest.fixture
    def analyzed_file(self, tmp_path: Path) -> tuple[Path, ProbeResult]:
        """Return a file and the facts of its probe."""
        raise NotImplementedError

    async def test_the_result_is_json_and_stable(
        self, analyzer: Analyzer, analyzed_file: tuple[Path, ProbeResult]
    ) -> None:
        """A repeated promotion must not change the stored metadata."""
        path, facts = analyzed_file
        before = path.read_bytes()
        first = await call(Kind.ANALYZE, analyzer.analyze, path, facts)
        again = await call(Kind.ANALYZE, analyzer.analyze, path, facts)
        assert isinstance(analyzer, Analyzer)
        assert json.loads(json.dumps(dict(first))) == dict(again)
        assert path.read_bytes() == before


class ProcessorContract:
    """A processor builds from paths, can be run again, and fails with a ``RindleError``."""

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
        percents: list[int] = []
        await call(
            Kind.PROCESS, processor.process, source, recipe, dest, progress=percents.append, cancelled=lambda: False
        )
        return percents

    async def test_it_declares_capabilities_of_the_vocabulary(self, processor: Processor, recipe: VariantSpec) -> None:
        """An unknown capability is never required; a variant with a missing one is refused."""
        assert isinstance(processor, Processor)
        assert set(processor.capabilities) <= PROCESSOR_CAPABILITIES
        assert recipe.required_capabilities <= processor.capabilities

    async def test_it_writes_the_destination_and_nothing_beside_it(
        self, processor: Processor, source: Path, recipe: VariantSpec, tmp_path: Path
    ) -> None:
        """Called twice, since a build may be repeated; the original does not change."""
        before = source.read_bytes()
        directory = tmp_path / "out"
        directory.mkdir()
        dest = directory / f"made{recipe.extension}"
        for _ in range(2):
            percents = await self._build(processor, source, recipe, dest)
            assert dest.stat().st_size > 0
            assert all(0 <= percent <= 99 for percent in percents)
            assert [entry.name for entry in directory.iterdir()] == [dest.name]
        assert source.read_bytes() == before

    async def test_a_broken_original_is_an_error_of_ours(
        self, processor: Processor, recipe: VariantSpec, tmp_path: Path
    ) -> None:
        """Any other exception is reported as ``unexpected`` and retried without success."""
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
            result = await call(Kind.AUTHORIZE, authorizer.authorize, *denied)
        except Unauthorized:
            return
        assert result is False
