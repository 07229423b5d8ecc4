"""A missing extra names itself at every entrance; no import ends with Python's own ``ModuleNotFoundError``."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import Misconfigured, MissingExtra
from rindle.extras import EXTRAS, extra_of, install_command, missing_extra, require, requires
from tests.patience import PATIENCE_SECONDS

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
#: Extras that the package's own modules need; the others install packages for examples, or several extras at once.
DECLARED = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("all", "example")}
#: Imports modules in an interpreter in which no package of an extra can be found, then runs the command.
WITHOUT_EXTRAS = """
import importlib, json, sys, traceback
from rindle.extras import EXTRAS

class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name.partition(".")[0] in packages for packages in EXTRAS.values()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in [name for name in sys.modules if name.partition(".")[0] in sum(EXTRAS.values(), ())]:
    del sys.modules[name]
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
        text = ""
    except ImportError:
        text = traceback.format_exc()
    print(json.dumps([module, text]), flush=True)
from rindle.media.features import main
main(["images"])
print(flush=True)
sys.argv[1:] = ["doctor"]
from rindle.cli import main
main()
"""
ENTRANCES = {
    "rindle": None,
    "rindle.bootstrap": "images",
    "rindle.cli.worker": "images",
    "rindle.contrib.jinja": "http",
    "rindle.http": "http",
    "rindle.http.uploads": "http",
    "rindle.media.render_pool": "images",
    "rindle.storage.gcs": "gcs",
    "rindle.storage.local": None,
    "rindle.storage.s3": "s3",
    "rindle.storage.s3.client": "s3",
    "rindle.streaming.memory": None,
    "rindle.streaming.mux": "mux",
    "rindle.telemetry": None,
}


def test_every_package_of_an_extra_is_known() -> None:
    modules: dict[str, set[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(distribution.lower().replace("_", "-"), set()).add(module)

    assert set(EXTRAS) == set(DECLARED)
    for extra, requirements in DECLARED.items():
        for requirement in requirements:
            name = re.split(r"[\[><=]", requirement)[0]
            known = {package.partition(".")[0] for package in EXTRAS[extra]}
            assert modules[name] & known, f"{name} of the extra {extra}"


def test_only_packages_that_two_extras_need_belong_to_both() -> None:
    packages = Counter(package for names in EXTRAS.values() for package in names)

    # Encrypts session URIs, and signs playback tokens.
    assert {package for package, count in packages.items() if count > 1} == {"cryptography"}


@pytest.mark.parametrize("extra", ["gcs", "mux"])
def test_a_package_of_two_extras_is_missing_in_the_one_that_needs_it(extra: str) -> None:
    with pytest.raises(MissingExtra) as caught, requires(extra):
        raise ModuleNotFoundError(name="cryptography.fernet")

    assert caught.value.detail == {"extra": extra, "package": "cryptography"}


def test_each_entrance_names_the_extra_that_it_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *ENTRANCES],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    *imports, features = done.stdout.splitlines()
    for line in imports:
        module, text = json.loads(line)
        extra = ENTRANCES[module]
        assert (text == "") == (extra is None), f"{module}: {text}"
        if extra is not None:
            assert re.fullmatch(
                r"rindle\.errors\.MissingExtra: the package \w+ is not installed. To fix: "
                + re.escape(install_command(extra)),
                text.splitlines()[-1],
            ), module
            assert "During handling" not in text
    assert json.loads(features)["error"].endswith(install_command("images"))
    assert (done.returncode, done.stderr) == (
        1,
        'missing_extra: the package click is not installed. To fix: pip install "rindle[cli]"\n',
    )


def test_the_error_is_ours_and_pythons() -> None:
    absent: dict[str, Any] = {"name": "boto3.session"}
    with pytest.raises(MissingExtra) as refused, requires("s3"):
        raise ModuleNotFoundError("No module named 'boto3'", **absent)

    assert isinstance(refused.value, Misconfigured)
    assert isinstance(refused.value, ModuleNotFoundError)
    assert (refused.value.code, refused.value.name) == ("missing_extra", "boto3.session")
    assert refused.value.detail == {"extra": "s3", "package": "boto3"}
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("error", [ModuleNotFoundError("no", name="yaml"), ImportError("no", name="boto3")])
def test_other_errors_of_imports_pass(error: ImportError) -> None:
    with pytest.raises(ImportError) as passed, requires("s3"):
        raise error

    assert passed.value is error
    assert missing_extra(error) is None


def test_what_is_installed_is_not_missing() -> None:
    require("http")
    require("s3", "boto3")

    assert (extra_of("boto3.session"), extra_of("yaml"), extra_of(None)) == ("s3", None, None)
