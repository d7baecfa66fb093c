"""The audit's exit code distinguishes "no known vulnerability" from "the database could not be reached"."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from scripts import audit

CLEAN = {"name": "alpha", "version": "1", "vulns": []}
BAD = {"name": "beta", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        (json.dumps({"dependencies": [CLEAN]}), 0, "No known vulnerability"),
        (json.dumps({"dependencies": [CLEAN, BAD]}), 1, "beta 2: PYSEC-1, fixed in 3"),
        ("", audit.UNREACHABLE, "cannot be reached"),
        (
            json.dumps({"dependencies": [{"name": "alpha", "skip_reason": "not found"}]}),
            audit.UNREACHABLE,
            "no result for alpha",
        ),
        (json.dumps({"dependencies": []}), audit.UNREACHABLE, "cannot be reached"),
    ],
)
def test_the_exit_code_says_what_is_known(
    output: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = SimpleNamespace(stdout=output, stderr="ConnectionError: no route to the host")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert audit.main(["one.lock", "two.lock"]) == code
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_pip_audit_without_a_network_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert audit.main(["requirements-setup.lock"]) == audit.UNREACHABLE
    assert "audit: the vulnerability database" in capsys.readouterr().out
