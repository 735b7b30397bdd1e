"""A stand-in for `python -m scalerl_runtime coordinator`: trains nothing, implements the whole wire format.

FAKE_COORDINATOR holds its scenario as JSON; attempts are strings:
    crash: {attempt: [step, code]}: exits at that step; 0 or more with a termination message, negative by that signal.
    hold: {attempt: step}: waits there for SIGTERM.
    still: {attempt: seconds}: reports there that its last step ended so long ago.   lag: of every step's tokens.
    deaf: ignores SIGTERM.   unheard: answers so many polls with 503 before training.
    spawn: starts processes in own sessions.   silent: never writes its address.
    torn: a cut line in evals.jsonl where it crashes.   until_polled: crashes only once polls have returned all its
    points.
    sources: [name]: of a mixture, whose points come with the pooled ones.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import yaml

from scalerl_api import InvalidRun, parse_run, wire

TICK_SECONDS = 0.004
COMPUTE_PER_STEP = 0.01


class FakeCoordinator:
    def __init__(self) -> None:
        self.folder = Path(os.environ[wire.ENV_FOLDER])
        self.attempt = int(os.environ[wire.ENV_ATTEMPT])
        self.scenario = json.loads(os.environ.get("FAKE_COORDINATOR", "{}"))
        self.token = Path(os.environ[wire.ENV_TOKEN_FILE]).read_text()
        self.stopping = False
        self.unheard = self.scenario.get("unheard", 0)
        self.asked_since = 0
        self.step = 0
        self.checkpoint: wire.Checkpoint | None = None
        self.evals: list[wire.EvalPoint] = []
        self.phase: wire.Phase = "starting"

    def end(self, reason: str, code: int, error: str = "") -> int:
        message = wire.Termination.model_validate(
            {
                "reason": reason,
                "step": self.step,
                "checkpoint": self.checkpoint,
                "last_eval": self.evals[-1] if self.evals else None,
                "error": error,
            }
        )
        Path(os.environ[wire.ENV_TERMINATION_FILE]).write_text(message.model_dump_json(by_alias=True))
        return code

    def progress(self, since: int) -> str:
        self.asked_since = since
        found = wire.Progress(
            run=self.run.name,
            attempt=self.attempt,
            phase=self.phase,
            step=self.step,
            version=self.step,
            compute_gpu_hours=self.step * COMPUTE_PER_STEP,
            gpu_seconds={"trainer": 36.0 * self.step, "generator": 36.0 * self.step},
            idle_fraction={"trainer": 0.2, "generator": 0.1},
            generators_ready=1,
            example=self.example(),
            vitals=[wire.StepVital(step=n + 1, lag=self.scenario.get("lag", 0)) for n in range(self.step)][-100:],
            still_seconds=self.still(),
            evals=[point for point in self.evals if point.index >= since],
            checkpoint=self.checkpoint,
            time=time.time(),
        )
        return found.model_dump_json(by_alias=True)

    def example(self) -> wire.RolloutExample | None:
        if self.step == 0:
            return None
        texts = {"prompt": "12 + 7 =", "completion": "<think>so\n</think> 19"}
        return wire.RolloutExample(step=self.step, reward=1.0, passed=3, graded=127, completions=128, **texts)

    def still(self) -> float:
        number = str(self.attempt)
        holds = self.step == self.scenario.get("hold", {}).get(number, -1)
        return self.scenario.get("still", {}).get(number, 0.0) if holds else 0.0

    def serve(self) -> None:
        coordinator = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization") == f"Bearer {coordinator.token}"
                coordinator.unheard -= 1
                code = 503 if coordinator.unheard >= 0 else 200 if allowed else 401
                since = int(parse_qs(urlsplit(self.path).query)["since"][0])
                body = coordinator.progress(since).encode() if code == 200 else b""
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", int(os.environ[wire.ENV_PORT])), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        if not self.scenario.get("silent"):
            (self.folder / wire.ADDRESS_FILE).write_text(f"127.0.0.1:{server.server_port}")

    def evaluate(self) -> None:
        if any(point.step == self.step for point in self.evals):
            return
        sources = [wire.source_dataset(name) for name in self.scenario.get("sources", [])]
        for dataset in (*sources, wire.HELD_OUT):
            self.measure(dataset)

    def measure(self, dataset: str) -> None:
        rate = 0.2 + 0.5 / (1 + math.exp(-(self.step - 30) / 8))
        point = wire.EvalPoint(
            index=len(self.evals),
            dataset=dataset,
            step=self.step,
            version=self.step,
            compute_gpu_hours=self.step * COMPUTE_PER_STEP,
            pass_rate=rate,
            prompts=250,
            samples=4,
            standard_error=0.02,
            attempt=self.attempt,
        )
        path = self.folder / wire.EVALS_FILE
        cut = path.exists() and not path.read_text().endswith("\n")
        with path.open("a") as file:
            file.write("\n" * cut + point.model_dump_json(by_alias=True) + "\n")
        self.evals.append(point)

    def save(self) -> None:
        self.checkpoint = wire.Checkpoint(step=self.step, time=time.time(), path=wire.CHECKPOINTS)
        folder = self.folder / wire.CHECKPOINTS
        folder.mkdir(exist_ok=True)
        evals = [point.model_dump(mode="json", by_alias=True) for point in self.evals]
        (folder / "state.new").write_text(json.dumps({"step": self.step, "evals": evals}))
        os.replace(folder / "state.new", folder / "state.json")

    def load(self) -> None:
        evals = self.folder / wire.EVALS_FILE
        if evals.exists():  # a line that a crash has cut would swallow the next one
            evals.write_bytes(evals.read_bytes().rpartition(b"\n")[0] + b"\n")
        path = self.folder / wire.CHECKPOINTS / "state.json"
        if path.exists():
            state = json.loads(path.read_text())
            self.step = state["step"]
            self.checkpoint = wire.Checkpoint(step=self.step, time=time.time(), path=wire.CHECKPOINTS)
            self.evals = [wire.EvalPoint.model_validate(point) for point in state["evals"]]

    def main(self) -> int:
        signal.signal(signal.SIGTERM, self.on_term)
        try:
            self.run = parse_run(yaml.safe_load(Path(os.environ[wire.ENV_SPEC]).read_text()))
        except InvalidRun as error:
            return self.end("Invalid", wire.EXIT_INVALID, str(error).splitlines()[0])
        if self.scenario.get("spawn"):
            stubborn = "trap '' TERM; sleep 1000 & wait"
            subprocess.Popen(["sh", "-c", stubborn], start_new_session=True)
        self.load()
        self.serve()
        while self.unheard > 0:
            time.sleep(TICK_SECONDS)
        return self.train()

    def on_term(self, *_: object) -> None:
        self.stopping = not self.scenario.get("deaf", False)

    def train(self) -> int:
        spec = self.run.spec
        self.phase = "training"
        while True:
            if self.step % spec.budget.eval_every_steps == 0 or self.step == spec.budget.steps:
                self.evaluate()
            if self.step % spec.checkpoint.every_steps == 0:
                self.save()
            if self.step >= spec.budget.steps:
                self.phase = "finished"
                self.save()
                return self.end("Finished", wire.EXIT_FINISHED)
            crash_step, code = self.scenario.get("crash", {}).get(str(self.attempt), [-1, 0])
            if self.step == crash_step:
                return self.crash(code)
            hold = self.scenario.get("hold", {}).get(str(self.attempt), -1)
            while self.step == hold and not self.stopping:
                time.sleep(TICK_SECONDS)
            if self.stopping:
                self.save()
                return self.end("Stopped", wire.EXIT_FINISHED)
            time.sleep(TICK_SECONDS)
            self.step += 1
            record = wire.StepRecord(
                step=self.step,
                time=time.time(),
                attempt=self.attempt,
                compute_gpu_hours=self.step * COMPUTE_PER_STEP,
                reward=0.1,
                values={"entropy": 0.5},
            )
            with (self.folder / wire.METRICS_FILE).open("a") as file:
                file.write(record.model_dump_json(by_alias=True) + "\n")

    def crash(self, code: int) -> int:
        while self.scenario.get("until_polled") and self.asked_since < len(self.evals):
            time.sleep(TICK_SECONDS)
        if self.scenario.get("torn"):
            with (self.folder / wire.EVALS_FILE).open("a") as file:
                file.write('{"index": 99, "dataset": "held_')
        if code < 0:
            os.kill(os.getpid(), -code)
        return self.end("Retry" if code == wire.EXIT_RETRY else "Failed", code, f"fell at step {self.step}")


if __name__ == "__main__":
    code = FakeCoordinator().main()
    sys.stdout.flush()
    os._exit(code)  # the interpreter's own end aborts if a thread that answers is writing just then
