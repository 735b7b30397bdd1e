"""Every word that the operator says of a run to programs: conditions, their reasons, events. PURE.

`python -m scalerl_operator.cli.conditions_page` writes docs/conditions.md from them. Types keep the code to these
words, and a test keeps the tables to the types.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from scalerl_api.status import ConditionType, StopCause

ClusterOutcome = Literal[
    "Finished",
    "StoppedByPolicy",
    "Suspended",
    "Invalid",
    "FailedByRule",
    "RestartsExhausted",
    "RetriesExhausted",
    "DeadlineExceeded",
    "StoppedByWatchdog",
]
Outcome = ClusterOutcome | Literal["Interrupted"]
"""How a run has ended, or why it rests."""
PhaseReason = Literal["Starting", "WarmStart", "Training", "Evaluating", "Stopping", "Finishing"]
"""What a coordinator does."""
StandingReason = Outcome | PhaseReason | Literal["Pending", "Restarting", "BackingOff", "InvalidSpec"]
"""The run's one word: STATE in `kubectl get`."""
WatchRule = Literal["NoStep", "NonFinite", "Stale", "EntropyLow"]
HealthReason = WatchRule | Literal["NothingFound", "NotTraining"]
ForecastReason = Literal["NoPoints", "Identified", "Weak", "NotIdentified"]
StopReason = Literal["NoPolicyHolds", "Enforce", "Observe"]
Reason = StandingReason | HealthReason | ForecastReason | StopReason
EventReason = (
    ClusterOutcome
    | Literal[
        "AttemptCreated",
        "AskedToEnd",
        "AttemptEnded",
        "BackingOff",
        "FailedCreate",
        "ForecastChanged",
        "InvalidSpec",
        "StopRecommended",
        "Training",
        "Unhealthy",
    ]
)

COMPLETE: tuple[Outcome, ...] = ("Finished", "StoppedByPolicy")  # a policy stop is a result, not a failure
FAILED: tuple[Outcome, ...] = (
    "Invalid",
    "FailedByRule",
    "RestartsExhausted",
    "RetriesExhausted",
    "DeadlineExceeded",
    "StoppedByWatchdog",
)
PAUSED: tuple[Outcome, ...] = ("Interrupted", "Suspended")

CONDITIONS: Mapping[ConditionType, str] = {
    "Ready": "The coordinator answers and trains or evaluates.",
    "Progressing": "The run is under way, or will be without anybody's doing. False: it is over, rests, or its spec "
    "cannot be understood.",
    "Healthy": "The watchdog has found nothing. False: a rule of `spec.watchdog` is broken; the message has numbers.",
    "Suspended": "`spec.suspend` is true and nothing of the run is left on a device.",
    "ForecastReady": "The forecast's verdict is `Identified`. The message says why not, and what would settle it.",
    "StopRecommended": "A stop policy holds. The message has the numbers, as has `status.stop`.",
    "Complete": "The run has done what it was for: its budget is spent, or a policy has ended it.",
    "Failed": "The run has ended and will not go on.",
}

STANDINGS: Mapping[StandingReason, tuple[str, str]] = {
    "Pending": (
        "Pods of an attempt's trainers do not all run yet.",
        "The message says what each waits for: the scheduler's word, an image. `deadlines.pendingSeconds` bounds it.",
    ),
    "Starting": ("The coordinator loads model, data and engines.", "`deadlines.startSeconds` bounds it."),
    "WarmStart": ("The supervised stage.", ""),
    "Training": ("Optimizer steps are made.", ""),
    "Evaluating": ("Evaluations that are due are made; no step is.", ""),
    "Stopping": ("The coordinator was asked to save and end; the message says why.", ""),
    "Finishing": ("The budget is spent; the coordinator ends.", ""),
    "Restarting": ("The next attempt begins, from the newest checkpoint.", ""),
    "BackingOff": ("The next attempt waits for its time.", "The message says how the last one ended."),
    "InvalidSpec": (
        "The operator does not understand the spec, or cannot carry it out. What runs goes on.",
        "Mend what the message names; it is taken at once.",
    ),
    "Finished": ("The budget is spent.", ""),
    "StoppedByPolicy": ("A stop policy has ended the run, after a checkpoint. No failure.", "See `status.stop`."),
    "Suspended": ("`spec.suspend` is true.", "False goes on from the checkpoint."),
    "Interrupted": ("`scalerl run` was asked to end.", "`--resume` goes on from the checkpoint."),
    "Invalid": ("The runtime has refused the spec (exit code 64).", "Mend it and make a new run."),
    "FailedByRule": (
        "A rule of `failurePolicy` with the action `FailRun` fits the end of an attempt.",
        "The message names the rule.",
    ),
    "RestartsExhausted": (
        "More failures without a new checkpoint than `failurePolicy.maxRestarts`.",
        "The message has the last one; its coordinator's pod is kept for its log.",
    ),
    "RetriesExhausted": (
        "Eleven ends in a row that cost no restart (evictions, lost nodes, exit code 75, pods that never began), and "
        "no new checkpoint.",
        "Look at the cluster before the run.",
    ),
    "DeadlineExceeded": ("`deadlines.activeSeconds` are used up.", ""),
    "StoppedByWatchdog": (
        "A rule of `spec.watchdog` with the action `Stop` was broken.",
        "The message has rule and numbers; a checkpoint was saved, but for NaN.",
    ),
}

HEALTH: Mapping[HealthReason, str] = {
    "NothingFound": "No rule is broken.",
    "NotTraining": "The running attempt has not answered yet, or none runs: status `Unknown`.",
    "NoStep": "`watchdog.noStep`: no optimizer step ends.",
    "NonFinite": "`watchdog.nonFinite`: NaN or infinity in loss or gradient, and the run was told to go on.",
    "Stale": "`watchdog.staleness`: what is trained on was sampled by weights that are too old.",
    "EntropyLow": "`watchdog.entropy`: the policy's entropy is below its floor.",
}
FORECASTS: Mapping[ForecastReason, str] = {
    "NoPoints": "No held-out evaluation yet: status `Unknown`.",
    "Identified": "The interval can be acted on.",
    "Weak": "The interval is wide, or a rival law disagrees.",
    "NotIdentified": "The points do not say.",
}
STOPS: Mapping[StopReason, str] = {
    "NoPolicyHolds": "No stop policy holds.",
    "Enforce": "The policy ends the run.",
    "Observe": "The policy only reports.",
}

EVENTS: Mapping[EventReason, tuple[Literal["Normal", "Warning"], str]] = {
    "AttemptCreated": ("Normal", "An attempt's pods are asked for."),
    "Training": ("Normal", "An attempt has begun to train; from which step."),
    "AskedToEnd": ("Normal", "An attempt is asked to save and end; the cause and what was seen."),
    "AttemptEnded": (
        "Normal",
        "An attempt has ended; how, and which rule fits. Unless asked for or finished: Warning.",
    ),
    "BackingOff": ("Warning", "An attempt has failed; when the next one begins."),
    "FailedCreate": (
        "Warning",
        "The API server refuses a pod or what pods share: quota, policy, template; or a name of theirs is taken.",
    ),
    "Unhealthy": ("Warning", "A rule of the watchdog is broken, whatever its action."),
    "ForecastChanged": ("Normal", "The forecast has another verdict."),
    "StopRecommended": ("Normal", "A stop policy holds; its numbers and the budget that is left."),
    "InvalidSpec": ("Warning", "The spec cannot be carried out; every fault."),
    "Suspended": ("Normal", "Nothing of the run is left on a device."),
    "Finished": ("Normal", "The budget is spent."),
    "StoppedByPolicy": ("Normal", "A stop policy has ended the run."),
    "Invalid": ("Warning", "The runtime has refused the spec."),
    "FailedByRule": ("Warning", "A rule of `failurePolicy` has failed the run."),
    "RestartsExhausted": ("Warning", "The run has failed."),
    "RetriesExhausted": ("Warning", "The run has failed."),
    "DeadlineExceeded": ("Warning", "The run has failed."),
    "StoppedByWatchdog": ("Warning", "The run has failed."),
}

CAUSES: Mapping[StopCause, tuple[str, str]] = {
    "Interrupted": ("A person, on one machine (Ctrl-C).", "nothing"),
    "Suspended": ("`spec.suspend`.", "nothing"),
    "StoppedByPolicy": ("A stop policy that is enforced.", "nothing: the run is over"),
    "DeadlineExceeded": ("`deadlines.activeSeconds`.", "nothing: the run is over"),
    "PendingDeadline": ("`deadlines.pendingSeconds`: its pods did not all begin.", "a retry"),
    "Stuck": ("The coordinator does not answer: 600 s, or `deadlines.startSeconds` at its start.", "a restart"),
    "GangBroken": ("A trainer's pod is gone.", "as that pod's end"),
    "WatchdogRestart": ("`spec.watchdog`, action `Restart`.", "a restart"),
    "WatchdogStop": ("`spec.watchdog`, action `Stop`.", "nothing: the run is over"),
}

INTRODUCTION = """\
# Conditions, reasons, events

Made by `make generate` from `operator/scalerl_operator/run/conditions.py`; do not edit. For programs, and for people
who read `kubectl describe rlrun`. `scalerl run` writes the same conditions into `status.yaml`.

Every condition is there from the first status on, so that `kubectl wait --for=condition=Complete` works at any time. A
run whose spec was never understood has `Progressing` alone.

## Conditions

"""
STANDING_INTRODUCTION = """
## Reasons of `Ready`, `Progressing`, `Suspended`, `Complete`, `Failed`

These five carry one word, which `kubectl get` shows as STATE. The second column names the condition that is true by it,
if one is that says the run is over or rests.

"""


def build_page() -> str:
    """Return docs/conditions.md."""
    return "".join(
        [
            INTRODUCTION,
            _table(("type", "true"), CONDITIONS.items()),
            STANDING_INTRODUCTION,
            _table(("reason", "condition", "meaning", "what to do"), _standing_rows()),
            "\n## Reasons of `Healthy`\n\n",
            _table(("reason", "meaning"), HEALTH.items()),
            "\n## Reasons of `ForecastReady`\n\n",
            _table(("reason", "meaning"), FORECASTS.items()),
            "\n## Reasons of `StopRecommended`\n\n",
            _table(("reason", "meaning"), STOPS.items()),
            "\n## Events\n\nThe same words about the same run are one Event, which is counted.\n\n",
            _table(("reason", "type", "when"), ((name, *row) for name, row in EVENTS.items())),
            "\n## Why an attempt is asked to end\n\n`status.attempts[].stopCause`, and what that end costs of "
            "`failurePolicy`. An end that nobody asked for costs\nwhat `spec.failurePolicy` says.\n\n",
            _table(("cause", "who asks", "costs"), ((name, *row) for name, row in CAUSES.items())),
        ]
    )


def _standing_rows() -> Iterator[tuple[str, str, str, str]]:
    groups: Mapping[str, Sequence[str]] = {"Complete": COMPLETE, "Failed": FAILED, "Suspended": ("Suspended",)}
    for reason, (meaning, advice) in STANDINGS.items():
        found = next((name for name, reasons in groups.items() if reason in reasons), "")
        yield reason, f"`{found}`" if found else "", meaning, advice


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(*header), "|---" * len(header) + "|\n"]
    return "".join([*lines, *(_row(f"`{row[0]}`", *row[1:]) for row in rows)])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"
