"""The shipped plug-in contracts, run against the examples of the extending guide."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import pytest

from examples.extending.analyzer import DominantColourAnalyzer
from examples.extending.authorizer import TeamAuthorizer
from examples.extending.probe import WavProbe
from examples.extending.processor import GrayscaleProcessor
from examples.extending.scanner import EicarScanner
from rindle import ImageVariant, MediaKind
from rindle.protocols import Analyzer, Authorizer, DeliverySubject, Probe, ProbeResult, Processor, Scanner
from rindle.recipes import VariantSpec
from rindle.testing.plugin_contracts import (
    AnalyzerContract,
    AuthorizerContract,
    ProbeContract,
    ProcessorContract,
    ScannerContract,
)
from tests.stage import photo

#: The industry's harmless test signature, in two halves so that this file is not taken for a virus itself.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + rb"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class TestEicarScanner(ScannerContract):
    @pytest.fixture
    def scanner(self) -> Scanner:
        return EicarScanner()

    @pytest.fixture
    def rejected_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "condemned"
        path.write_bytes(EICAR)
        return path


class TestWavProbe(ProbeContract):
    mime = "audio/wav"

    @pytest.fixture
    def probe(self) -> Probe:
        return WavProbe()

    @pytest.fixture
    def good_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "good.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(b"\x00\x00" * 4000)
        return path


class TestDominantColourAnalyzer(AnalyzerContract):
    @pytest.fixture
    def analyzer(self) -> Analyzer:
        return DominantColourAnalyzer()

    @pytest.fixture
    def analyzed_file(self, tmp_path: Path) -> tuple[Path, ProbeResult]:
        return photo(tmp_path / "p.jpg"), ProbeResult(kind=MediaKind.IMAGE, width=800, height=600)


class TestGrayscaleProcessor(ProcessorContract):
    @pytest.fixture
    def processor(self) -> Processor:
        return GrayscaleProcessor()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return photo(tmp_path / "p.jpg")

    @pytest.fixture
    def recipe(self) -> VariantSpec:
        return ImageVariant(mode="fit", width=64, height=64)


class TestTeamAuthorizer(AuthorizerContract):
    @pytest.fixture
    def authorizer(self) -> Authorizer:
        return TeamAuthorizer({"alice"})

    @pytest.fixture
    def allowed(self) -> tuple[Any, str, DeliverySubject]:
        return "alice", "deliver", DeliverySubject(profile="p", mode="private", asset_id="a")

    @pytest.fixture
    def denied(self) -> tuple[Any, str, DeliverySubject]:
        return "bob", "deliver", DeliverySubject(profile="p", mode="private", asset_id="a")
