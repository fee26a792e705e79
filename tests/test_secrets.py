"""No key, token or address that lets others in is in anything that a run writes, says or uploads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import house
import pytest
from servers import hub

from simpletuner.training.trackers import TRACKERS, is_installed

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-key-that-nobody-may-see",
    "HUGGING_FACE_HUB_TOKEN": "hf_another_token_that_nobody_may_see",
}
HOOK, WORD = "part-of-the-address-that-lets-others-write", "word-that-our-service-knows-us-by"


class _Taker(BaseHTTPRequestHandler):
    """A service that takes what it is sent."""

    def log_message(self, format, *args):
        """Stay quiet."""

    def do_POST(self):
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_run_with_everything_on_keeps_its_secrets(tmp_path, model, pictures, service):
    hooks = [
        {"webhook_type": "raw", "callback_url": f"http://127.0.0.1:{service.server_port}/{HOOK}", "auth_token": WORD},
        {"webhook_type": "discord", "webhook_url": f"http://127.0.0.1:{service.server_port}/discord/{HOOK}"},
    ]
    path = house.write_run(
        tmp_path / "run",
        [house.data_set("subject", pictures)],
        max_train_steps=2,
        checkpoint_step_interval=1,
        report_to="all",
        webhook_config=hooks,
        push_to_hub=True,
        push_checkpoints_to_hub=True,
        hub_model_id="tester/zorb",
        validation_disable=False,
        validation_prompt="a red circle",
        validation_resolution="64x64",
        validation_num_inference_steps=1,
        validation_disable_unconditional=True,
    )
    secrets = [*SECRETS.values(), hub.TOKEN, HOOK, WORD]
    with hub.running() as server:
        here = {"MODEL": str(model), "WANDB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
        variables = {**os.environ, **SECRETS, **server.environment(), **here}
        command = [sys.executable, "-m", "simpletuner", "train", "--config", str(path)]
        done = subprocess.run(command, env=variables, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        assert len(server.commits) == 3 and len(service.bodies) > 4
        uploaded = dict(server.files["tester/zorb"])
    written = {str(file): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file != path}
    trackers = [name for name in TRACKERS if is_installed(name)]
    assert len(trackers) > 1 and all(any(f"/{one}/" in name for name in written) for one in trackers)
    sent = {f"message {number}": body for number, body in enumerate(service.bodies)}
    said = {"stdout": done.stdout, "stderr": done.stderr}
    for name, content in {**written, **uploaded, **sent, **said}.items():
        for secret in secrets:
            assert secret.encode() not in content, f"{secret} is in {name}"
