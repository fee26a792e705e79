"""Uploads wait on disk until the Hub has them, whatever the Hub answers and however often a run is ended."""

import os
import subprocess
import sys

import pytest
from servers import hub

from simpletuner.errors import PublishError
from simpletuner.training.publishing.outbox import Content, Label, Outbox

SEND = """
import sys
from pathlib import Path
from simpletuner.errors import PublishError
from simpletuner.training.publishing.delivery import deliver_waiting
from simpletuner.training.publishing.outbox import Outbox
failed = []
for sent in deliver_waiting(Outbox(Path(sys.argv[1])), lambda: float(sys.argv[2]), stall=1.5):
    if isinstance(sent, PublishError):
        failed.append(f"{type(sent).__name__}: {sent}")
    else:
        print(*sent)
sys.exit("\\n".join(failed) or 0)
"""


@pytest.fixture
def small_hub():
    with hub.running() as server:
        yield server


@pytest.fixture
def box(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"w" * 10_000)
    outbox = Outbox(tmp_path / "outbox")
    outbox.put(Label("tester/zorb"), Content({"weights.safetensors": weights}, {"README.md": "# zorb"}))
    weights.unlink()  # as a checkpoint that is pruned while it waits
    return outbox


def send(box, server, deadline=20.0, **environment):
    """In a process of its own: the client reads its address when it is imported."""
    command = [sys.executable, "-c", SEND, str(box.folder), str(deadline)]
    variables = {**os.environ, **server.environment(), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def arrived(server):
    return {name: bytes(data) for name, data in server.files.get("tester/zorb", {}).items()}


EXPECTED = {"weights.safetensors": b"w" * 10_000, "README.md": b"# zorb"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_fails_for_a_moment_is_tried_again(box, small_hub, status):
    small_hub.failures = [status, status]
    done = send(box, small_hub)
    assert done.returncode == 0, done.stderr
    assert arrived(small_hub) == EXPECTED
    assert box.waiting() == []


def test_the_wait_that_the_hub_asks_for_is_kept(box, small_hub):
    small_hub.failures, small_hub.retry_after = [429], "60"
    done = send(box, small_hub, deadline=5.0)
    assert done.returncode == 1 and "Unanswered: 'tester/zorb'" in done.stderr
    assert len(box.waiting()) == 1 and arrived(small_hub) == {}


def test_a_hub_that_stops_answering_is_asked_anew(box, small_hub):
    small_hub.stall = 4.0
    done = send(box, small_hub)
    assert done.returncode == 0, done.stderr
    assert arrived(small_hub) == EXPECTED


@pytest.mark.parametrize(("status", "advice"), [(401, "HF_TOKEN"), (403, "may not write"), (413, "larger")])
def test_what_is_refused_is_not_asked_again_and_waits(box, small_hub, status, advice):
    small_hub.failures = [status, status]
    done = send(box, small_hub)
    assert done.returncode == 1 and advice in done.stderr
    assert len(small_hub.failures) == 1
    assert len(box.waiting()) == 1


def test_a_hub_that_is_not_there_leaves_everything_waiting(box, small_hub):
    done = send(box, small_hub, deadline=1.0, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "Unanswered" in done.stderr
    assert len(box.waiting()) == 1


def test_sending_twice_leaves_what_sending_once_does(box, small_hub, tmp_path):
    assert send(box, small_hub).returncode == 0
    before = arrived(small_hub)
    again = tmp_path / "weights.safetensors"
    again.write_bytes(b"w" * 10_000)
    box.put(Label("tester/zorb"), Content({"weights.safetensors": again}, {"README.md": "# zorb"}))
    assert send(box, small_hub).returncode == 0
    assert arrived(small_hub) == before == EXPECTED


def test_parcels_leave_in_the_order_in_which_they_came(box, small_hub, tmp_path):
    newer = tmp_path / "newer.safetensors"
    newer.write_bytes(b"n" * 10_000)
    box.put(Label("tester/zorb", message="second"), Content({"weights.safetensors": newer}))
    assert send(box, small_hub).returncode == 0
    assert arrived(small_hub)["weights.safetensors"] == b"n" * 10_000
    assert [message for *_, message in small_hub.commits] == ["Upload", "second"]


def test_what_is_refused_holds_up_what_goes_to_the_same_place_and_nothing_else(box, small_hub):
    for repository, text in (("tester/zorb", "newer"), ("tester/other", "other")):
        box.put(Label(repository, message=text), Content({}, {"README.md": text}))
    small_hub.failures = [403]
    done = send(box, small_hub)
    assert done.returncode == 1 and done.stderr.count("could not be uploaded") == 1
    assert arrived(small_hub) == {} and small_hub.files["tester/other"] == {"README.md": b"other"}
    assert [parcel.label.message for parcel in box.waiting()] == ["Upload", "newer"]
    assert send(box, small_hub).returncode == 0
    assert arrived(small_hub)["README.md"] == b"newer"


def test_a_label_that_cannot_be_read_says_which_folder_to_remove(box):
    parcel = box.waiting()[0]
    (parcel.path / "label.json").write_text("{")
    with pytest.raises(PublishError, match=r"000001' cannot be sent: label.json cannot be read .* remove the folder"):
        _ = box.waiting()[0].label


def test_a_parcel_that_was_cut_off_is_none(box):
    (box.folder / ".000002.partial" / "content").mkdir(parents=True)
    assert [parcel.path.name for parcel in box.waiting()] == ["000001"]
    box.put(Label("tester/zorb"), Content({}, {"a.txt": "a"}))
    assert [parcel.path.name for parcel in box.waiting()] == ["000001", "000002"]


def test_no_token_is_kept_beside_the_files(box, small_hub):
    small_hub.fail_with = 500
    send(box, small_hub, deadline=1.0)
    kept = [path.read_bytes() for path in box.folder.rglob("*") if path.is_file()]
    assert kept and not any(hub.TOKEN.encode() in data for data in kept)


def test_a_parcel_that_another_process_has_sent_meanwhile_is_no_error(box):
    (parcel,) = box.waiting()
    assert parcel.bytes() > 10_000
    box.done(parcel)
    assert parcel.bytes() == 0
    box.done(parcel)
    assert box.waiting() == []
