"""What `check` says of a repository on the Hub, over real HTTP."""

import os
import subprocess
import sys

import pytest
from servers import hub

CODE = "import sys; from simpletuner.hub import reachable; print(reachable(sys.argv[1], sys.argv[2] or None))"


def said(server, repository, revision="", **environment):
    """The answer of a fresh process, because the client reads the Hub's address when it is imported."""
    variables = {**os.environ, **server.environment(), "HF_HOME": "/nowhere", **environment}
    command = [sys.executable, "-c", CODE, repository, revision]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def small_hub():
    with hub.running() as server:
        server.models = {"you/open": {"gated": False}, "you/gated": {"gated": "manual"}}
        yield server


def test_an_open_repository_is_not_worth_a_word(small_hub):
    assert said(small_hub, "you/open") == "None"


def test_a_gated_repository_without_a_token_is_told_apart_from_one_with(small_hub):
    assert said(small_hub, "you/gated", HF_TOKEN="").startswith("you/gated is gated: accept its licence")
    assert said(small_hub, "you/gated") == "None"


def test_a_repository_that_is_not_there_is_named(small_hub):
    assert said(small_hub, "you/nothing").startswith("you/nothing is not on the Hub, or not open to you")


def test_a_revision_that_is_not_there_is_named(small_hub):
    assert said(small_hub, "you/open", "v9") == "you/open has no revision 'v9' on the Hub"


def test_a_hub_that_is_not_there_is_no_traceback(small_hub):
    answer = said(small_hub, "you/open", HF_ENDPOINT="http://127.0.0.1:9")
    assert answer.startswith("you/open could not be looked up on the Hub: ")
