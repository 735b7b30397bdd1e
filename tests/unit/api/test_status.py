"""The status is one document in two places: JSON from an API server, YAML in the run's folder."""

from datetime import UTC, datetime

import pytest
import yaml
from pydantic import ValidationError

from scalerl_api import RLRunStatus, parse_run
from scalerl_api.status import ForecastStatus

TEXT = """
observedGeneration: 3
conditions:
- type: Complete
  status: 'True'
  reason: StoppedByPolicy
  message: flat held for 3 evaluations
  lastTransitionTime: '2026-11-23T09:24:05Z'
  observedGeneration: 2
roles:
- name: generator
  desired: 16
  ready: 15
  restarts: 4
attempt: 2
progress:
  phase: finished
  step: 7300
  version: 7299
  passRate: 0.5925
  computeGpuHours: 9750.5
  rewardByJudge:
    style: -0.25
  mismatch: 0.0121
  etaSeconds: null
forecast:
  verdict: Identified
  reason: the bend is passed
  law: sigmoid
  points: 74
  ceiling: 0.61
  ceilingLow: 0.59
  ceilingHigh: 0.63
  cMidGpuHours: 2542.0
  b: 1.92
  r0: 0.25
  predictedAtBudget: 0.6
  low: 0.585
  high: 0.615
  targetGpuHours: null
  summary: 0.61 [0.59,0.63]
  updatedAt: '2026-11-23T09:20:00Z'
sourceForecasts:
- verdict: Weak
  reason: the interval is wide
  law: sigmoid
  points: 8
  ceiling: 0.44
  ceilingLow: 0.31
  ceilingHigh: 0.58
  cMidGpuHours: 1200.0
  b: 1.25
  r0: 0.11
  predictedAtBudget: 0.41
  low: 0.3
  high: 0.5
  targetGpuHours: null
  summary: 0.44 [0.31,0.58]
  updatedAt: '2026-03-01T08:07:00Z'
  name: code
  passRate: 0.27
sources:
- path: spec.data.train[1]
  name: code
  rows: 7000
  bad: 3
  cut: read the first 7,000 of 7,473 rows
  train: 6500
  heldOut: 400
  duplicates: 97
  selfTests:
  - verifier: style
    rows: 64
    failed: 1
    note: the same reward on each row
stop:
  policy: flat
  mode: Enforce
  reason: remainingGain 0.0075 is below 0.01
  quantity: remainingGain
  inputs:
  - step: 7200
    computeGpuHours: 14000.25
    value: 0.0075
    verdict: Weak
  savedGpuHours: 6249.5
  others:
  - long
checkpoint:
  step: 7250
  time: '2026-11-23T09:10:00Z'
  uri: runs/a/checkpoints/7250
cost:
  gpuSeconds:
    trainer: 7020360.0
    generator: 28081440.0
  idleFraction:
    trainer: 0.06
attempts:
- number: 2
  replicas: 5
  room: 4
  created: '2026-11-22T08:00:00Z'
  started: '2026-11-22T08:01:30Z'
  seen: true
  stopCause: StoppedByPolicy
  stopTime: '2026-11-23T09:21:00Z'
  stopMessage: it is flat
  ended: '2026-11-23T09:24:00Z'
  exitCode: 137
  infrastructure: false
  rule: codes
  ruled: Count
  said: Stopped
  error: 'RuntimeError: no space left'
  refusedData: 0123456789abcdef0123456789abcdef
  acceptedData: fedcba9876543210fedcba9876543210
  step: 7299
  checkpointStep: 7250
preflight:
  ranks: 16
  nodes: 2
  seconds: 21.5
  teraflops: 701.0
  slowestTeraflops: 655.0
  slowestNode: gpu-4
  bandwidth: 44.4
  nodeBandwidth: 301.0
  network: IB
  warnings:
  - gpu-4 is hot
excludedNodes:
- name: gpu-3
  reason: 3 uncorrected ECC errors
  time: '2026-11-22T07:30:00Z'
earlier:
  activeSeconds: 8400.5
  failures: 3
  retries: 6
  checkpointStep: 400
"""


def test_round_trip_changes_nothing() -> None:
    written = RLRunStatus.model_validate(yaml.safe_load(TEXT)).model_dump(mode="json", by_alias=True)
    assert written == yaml.safe_load(TEXT)


def test_values_arrive_under_their_python_names() -> None:
    status = RLRunStatus.model_validate(yaml.safe_load(TEXT))
    assert status.forecast is not None
    assert status.forecast.c_mid_gpu_hours == 2542
    assert status.forecast.ceiling_high == 0.63
    assert status.conditions[0].last_transition_time == datetime(2026, 11, 23, 9, 24, 5, tzinfo=UTC)


def test_without_a_fit_numbers_are_absent_not_guessed() -> None:
    forecast = ForecastStatus(verdict="NotIdentified", reason="3 points", points=3)
    assert forecast.model_dump(exclude_none=True) == {"verdict": "NotIdentified", "reason": "3 points", "points": 3}


def test_unknown_field_is_an_error() -> None:
    with pytest.raises(ValidationError, match="phaze"):
        RLRunStatus.model_validate({"phaze": "x"})


def test_a_run_with_status_is_a_run() -> None:
    document = {
        "apiVersion": "scalerl.io/v1alpha1",
        "kind": "RLRun",
        "metadata": {"name": "a", "resourceVersion": "12", "labels": {"team": "x"}},
        "spec": {
            "model": {"source": "m"},
            "data": {"train": {"source": "d"}},
            "reward": {"verifier": "math"},
            "budget": {"steps": 200},
        },
        "status": yaml.safe_load(TEXT),
    }
    status = parse_run(document).status
    assert status is not None
    assert status.attempt == 2
