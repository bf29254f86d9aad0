"""Each test runs in a folder of its own: what it leaves behind, such as a database, no other one finds."""

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
