"""Webhooks are told what happens, in order and in the background, whatever their server answers."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import house
import pytest
from PIL import Image
from pydantic import ValidationError

from simpletuner.errors import ConfigError
from simpletuner.progress import (
    CheckpointSaved,
    Evaluated,
    Failed,
    Finished,
    ImagesSaved,
    Notice,
    PreviewDrawn,
    RunStarted,
    Scored,
    StepDone,
)
from simpletuner.training.options import Tracking
from simpletuner.training.webhooks.options import Webhook
from simpletuner.training.webhooks.sender import Sender


class Service(ThreadingHTTPServer):
    """Keeps what it is sent, after as many failures as it was told to have."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/hooks/secret-part-of-the-address"
        self.bodies = []
        self.headers = []
        self.failures = []
        self.answers = threading.Event()
        self.answers.set()

    def documents(self):
        return [json.loads(body) for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answers.wait()
        status = self.server.failures.pop(0) if self.server.failures else 200
        if status == 200:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def service():
    server = Service()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def step(number, seconds=2.0):
    return StepDone(
        step=number,
        total_steps=10,
        epoch=1,
        loss=0.5,
        learning_rate=1e-4,
        gradient_norm=1.0,
        seconds=seconds,
        samples=2,
        metrics={"memory_gib": 3.5},
    )


def tell(service, *events, interval=0.0, **options):
    kind = options.get("webhook_type", "raw")
    address = {"webhook_url": service.address} if kind == "discord" else {"callback_url": service.address}
    hook = Webhook(**{"webhook_type": kind, **address, **options})
    sender = Sender(hook, project="project", run="a run", interval=interval)
    for event in events:
        sender.report(event)
    sender.close()


def test_a_raw_service_is_sent_every_event_in_order_with_its_token(service):
    tell(
        service,
        RunStarted("out"),
        step(1),
        CheckpointSaved(1, "out/checkpoint-1"),
        Finished("out", 10),
        auth_token="t0k",
    )
    told = service.documents()
    kinds = ["lifecycle.stage", "training.status", "training.checkpoint", "training.status"]
    assert [one["type"] for one in told] == kinds
    assert told[1]["data"]["progress"]["eta_seconds"] == 18.0
    assert told[1]["data"]["progress"]["metrics"]["memory_gib"] == 3.5
    assert told[3]["data"]["status"] == "completed"
    assert all(one["job_id"] == "a run" and one["title"] == "project" for one in told)
    assert {headers["X-API-Key"] for headers in service.headers} == {"t0k"}


def test_discord_is_sent_texts_and_pictures(service, tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8), "red").save(path)
    shown = ImagesSaved(3, (str(path),), ("a red square",), str(path))
    tell(service, Notice("look here"), step(1), shown, webhook_type="discord", message_prefix="mine")
    text, picture = service.bodies
    assert json.loads(text) == {"content": "mine: look here", "allowed_mentions": {"parse": []}}
    assert b'filename="picture.png"' in picture and path.read_bytes() in picture
    assert b"pictures of step 3" in picture


def test_a_raw_service_gets_pictures_in_base64(service, tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8), "red").save(path)
    tell(service, ImagesSaved(3, (str(path),), ("a red square",), str(path)))
    (told,) = service.documents()
    assert [base64.b64decode(one) for one in told["images"]] == [path.read_bytes()]


def test_a_preview_is_sent_with_the_step_of_its_picture(service, tmp_path):
    path = tmp_path / "preview.png"
    Image.new("RGB", (8, 8), "red").save(path)
    tell(service, PreviewDrawn(3, "a red square", 4, 20, str(path)), Scored(3, {"a": 0.25}, {"clip/mean": 0.25}))
    preview, score = service.documents()
    assert preview["type"] == "validation.image" and preview["data"]["step_label"] == "4/20" and preview["images"]
    assert score["data"]["summary"] == {"clip/mean": 0.25}


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 3), ("warning", 2), ("error", 1), ("critical", 1)])
def test_the_level_says_how_much_is_sent(service, level, count):
    tell(service, step(1), Notice("look"), Failed("no memory"), log_level=level)
    assert len(service.bodies) == count


def test_steps_come_no_more_often_than_asked_for(service):
    tell(service, *(step(number) for number in range(1, 9)), Finished("out", 10), interval=60.0)
    assert [one["message"] for one in service.documents()] == [
        "step 1 of 10, loss 0.5000",
        "the run is finished after 10 steps",
    ]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_a_moment_is_sent_again_in_order(service, status):
    service.failures = [status]
    tell(service, Notice("first"), Notice("second"))
    assert [one["message"] for one in service.documents()] == ["first", "second"]


def test_a_slow_service_does_not_hold_up_the_run(service):
    service.answers.clear()
    hook = Webhook(webhook_type="raw", callback_url=service.address)
    sender = Sender(hook, project="project", run="a run")
    for number in range(1, 6):
        sender.report(step(number))
    assert service.bodies == []
    service.answers.set()
    sender.close()
    assert len(service.bodies) == 5


def test_a_service_that_refuses_is_warned_of_once_and_without_its_address(service):
    service.failures = [404] * 5
    with house.heard("simpletuner.training.webhooks.sender") as told:
        tell(service, *(Notice(str(number)) for number in range(5)))
    assert told.getvalue() == (
        "the webhook at 127.0.0.1: a message could not be sent: it answers 404; the run goes on\n"
    )


def test_a_run_tells_its_webhook_and_keeps_its_address_to_itself(tmp_path, model, pictures, service):
    hooks = tmp_path / "hooks.json"
    hooks.write_text(json.dumps([{"webhook_type": "raw", "callback_url": service.address, "auth_token": "s3cr3t"}]))
    path = house.write_run(
        tmp_path, [house.data_set("subject", pictures)], max_train_steps=2, webhook_config=str(hooks)
    )
    outcome, _ = house.run(path, model)
    assert [one["type"] for one in service.documents()][-1] == "training.status"
    written = [file.read_bytes() for file in outcome.folder.rglob("*") if file.is_file()]
    assert not any(b"secret-part-of-the-address" in data or b"s3cr3t" in data for data in written)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"webhook_type": "discord"}, "webhook_url: is required for webhook_type discord"),
        ({"webhook_type": "raw"}, "callback_url: is required for webhook_type raw"),
        ({"webhook_type": "slack"}, "no webhook is called 'slack'"),
        ({"webhook_url": "discord.com/secret"}, "must be an address that begins with https://"),
        ("hooks.json", "webhook_config: 'hooks.json' exists neither in"),
        ("https://discord.com/api/webhooks/secret", 'webhook_config: is an address; write {"webhook_type": "discord"'),
        ('{"webhook_url": "secret",', "webhook_config: is not JSON: "),
        (5, "webhook_config: must be an object, a list of objects, or the name of a JSON file"),
    ],
)
def test_a_webhook_that_cannot_work_is_refused_without_its_secrets(tmp_path, model, pictures, given, told):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], webhook_config=given)
    with pytest.raises(ConfigError) as error:
        house.resolved(path, model)
    assert told in str(error.value) and "secret" not in str(error.value)


def test_a_file_of_webhooks_may_begin_with_a_mark_and_name_variables(tmp_path, model, pictures):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], webhook_config="hooks.json")
    (tmp_path / "hooks.json").write_text('\ufeff{"webhook_url": "https://discord.com/{env:MODEL}"}')
    (hook,) = house.resolved(path, model).tracking.webhook_config
    assert hook.address.get_secret_value() == f"https://discord.com/{model}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"webhook_url": "https://discord.com/secret",}', "hooks.json › line 1, column 45: JSON allows no comma"),
        (b'{"webhook_url": "https://\xff.com/secret"}', "hooks.json › (whole file): is not UTF-8 text"),
        (b'{"webhook_url": "{env:NOT_SET}"}', "hooks.json › {env:NOT_SET}: this"),
    ],
)
def test_a_file_of_webhooks_that_cannot_be_read_is_told_with_the_place(tmp_path, model, pictures, content, told):
    path = house.write_run(tmp_path, [house.data_set("subject", pictures)], webhook_config="hooks.json")
    (tmp_path / "hooks.json").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        house.resolved(path, model)
    assert told in str(error.value) and "secret" not in str(error.value) and len(error.value.problems) == 1


def test_addresses_do_not_appear_when_the_options_are_shown():
    options = Tracking(webhook_config={"webhook_url": "https://discord.com/api/secret"})
    assert "secret" not in repr(options) and "secret" not in options.model_dump_json()
    with pytest.raises(ValidationError) as error:
        Tracking(webhook_config={"webhook_url": ["https://discord.com/api/secret"]})
    assert error.value


def test_a_loss_that_is_no_number_does_not_end_the_messages(service):
    tell(service, Evaluated(3, {"own": float("nan")}, {"own": 0.5}), Notice("after it"))
    first, second = service.documents()
    assert first["data"]["losses"] == {"own": None} and second["message"] == "after it"


def test_the_line_break_at_the_end_of_a_file_with_an_address_or_a_token_does_no_harm(service):
    hook = Webhook(webhook_type="raw", callback_url=f"{service.address}\n", auth_token="s3cr3t\n")
    sender = Sender(hook, project="project", run="a run")
    sender.report(Notice("arrives"))
    sender.close()
    assert service.documents()[0]["message"] == "arrives" and service.headers[0]["X-API-Key"] == "s3cr3t"


@pytest.mark.parametrize(
    ("option", "value"),
    [("callback_url", "https://host:99999/x"), ("callback_url", "https://a\nb.com/x"), ("auth_token", "gehe\u00efm")],
)
def test_what_no_request_can_be_made_of_is_refused(option, value):
    given = {"webhook_type": "raw", "callback_url": "https://example.com", option: value}
    with pytest.raises(ValidationError, match=option):
        Webhook(**given)
