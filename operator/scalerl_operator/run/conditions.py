"""Conditions, their reasons and the events of a run. PURE.

`python -m scalerl_operator.cli.conditions_page` writes docs/conditions.md from them. The types allow only these
names; a test compares the tables with the types.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from scalerl_api.status import ConditionType, StopCause

ClusterOutcome = Literal[
    "Finished",
    "AllPromptsSolved",
    "StoppedByPolicy",
    "Suspended",
    "InvalidSpec",
    "FailedByRule",
    "RestartsExhausted",
    "RetriesExhausted",
    "DeadlineExceeded",
    "StoppedByWatchdog",
]
Outcome = ClusterOutcome | Literal["Interrupted"]
"""How a run has ended, or why it is paused."""
PhaseReason = Literal["Starting", "WarmStart", "Training", "Evaluating", "Stopping", "Finishing"]
"""A coordinator's phase."""
StandingReason = Outcome | PhaseReason | Literal["Pending", "Restarting", "BackingOff"]
"""The reason that `kubectl get` shows as STATE."""
WatchRule = Literal["NoStep", "NonFinite", "Mismatch", "NoGradient", "Stale", "EntropyLow"]
HealthReason = WatchRule | Literal["NothingFound", "NotTraining"]
NodesReason = Literal["NoneExcluded", "NodesExcluded"]
ForecastReason = Literal["NoPoints", "Identified", "Weak", "NotIdentified"]
StopReason = Literal["NoPolicyHolds", "Enforce", "Observe"]
Reason = StandingReason | HealthReason | NodesReason | ForecastReason | StopReason
EventReason = (
    ClusterOutcome
    | Literal[
        "AttemptCreated",
        "AskedToEnd",
        "AttemptEnded",
        "BackingOff",
        "FailedCreate",
        "ForecastChanged",
        "NodeExcluded",
        "StopRecommended",
        "Training",
        "Unhealthy",
    ]
)

# A policy stop is a result, and so are data that the model has learnt: no failures.
COMPLETE: tuple[Outcome, ...] = ("Finished", "AllPromptsSolved", "StoppedByPolicy")
FAILED: tuple[Outcome, ...] = (
    "InvalidSpec",
    "FailedByRule",
    "RestartsExhausted",
    "RetriesExhausted",
    "DeadlineExceeded",
    "StoppedByWatchdog",
)
PAUSED: tuple[Outcome, ...] = ("Interrupted", "Suspended")

CONDITIONS: Mapping[ConditionType, str] = {
    "Ready": "The coordinator answers and trains or evaluates.",
    "Progressing": "The run makes progress, or will without an action of the user. False: it is over or paused, or its "
    "spec is invalid.",
    "Healthy": "No rule of `spec.watchdog` is broken. False: one is; the message has the numbers.",
    "NodesFit": "No node is excluded. False: the preflight has excluded nodes from this run; the message has each and "
    "the reason.",
    "Suspended": "`spec.suspend` is true and the run holds no device.",
    "ForecastReady": "The forecast's verdict is `Identified`. Else the message has the reason, and what is missing.",
    "StopRecommended": "A stop policy holds. The message has the numbers, as has `status.stop`.",
    "Complete": "The run has reached its goal: its budget is spent, its prompts are solved, or a stop policy has ended "
    "it.",
    "Failed": "The run has ended and will not be restarted.",
}

STANDINGS: Mapping[StandingReason, tuple[str, str]] = {
    "Pending": (
        "Some trainer pods of an attempt do not run yet.",
        "The message has what each waits for: the scheduler's reason, an image. `deadlines.pendingSeconds` bounds it.",
    ),
    "Starting": ("The coordinator loads model, data and engines.", "`deadlines.startSeconds` bounds it."),
    "WarmStart": ("The supervised stage.", ""),
    "Training": ("Optimizer steps run.", ""),
    "Evaluating": ("Due evaluations run; no optimizer step does.", ""),
    "Stopping": ("The coordinator was told to save a checkpoint and end; the message has the cause.", ""),
    "Finishing": ("The budget is spent; the coordinator is shutting down.", ""),
    "Restarting": ("The next attempt starts from the newest checkpoint.", ""),
    "BackingOff": ("The next attempt waits for its backoff.", "The message has the end of the last attempt."),
    "InvalidSpec": (
        "The spec is invalid: as a document (a running attempt continues), or refused by the runtime (exit code 64: "
        "model, tokenizer, data, verifier or folders are not what the spec says), with `Failed`. No retry.",
        "Correct the fields that the message names. A document is read again at once; after `Failed` create a new run. "
        "Data that have changed since the checkpoint are accepted by the annotation `scalerl.io/accept-new-data` with "
        "the digest that the message has: the run then goes on.",
    ),
    "Finished": ("The budget is spent.", ""),
    "AllPromptsSolved": (
        "The run has finished before its budget is spent: every training prompt is solved.",
        "`recipe.noPositiveResampling` leaves solved prompts out. To train on: more data, or a higher "
        "`recipe.noPositiveThreshold`, in a new run.",
    ),
    "StoppedByPolicy": (
        "A stop policy has ended the run after a checkpoint. This is no failure.",
        "See `status.stop`.",
    ),
    "Suspended": ("`spec.suspend` is true.", "Set it to false to resume from the checkpoint."),
    "Interrupted": ("`scalerl run` was interrupted.", "`--resume` continues from the checkpoint."),
    "FailedByRule": (
        "A rule of `failurePolicy` with the action `FailRun` fits the end of an attempt.",
        "The message has the rule's name.",
    ),
    "RestartsExhausted": (
        "More failures without a new checkpoint than `failurePolicy.maxRestarts`.",
        "The message has the last failure; its coordinator's pod is kept for its log.",
    ),
    "RetriesExhausted": (
        "Eleven ends in a row that cost no restart (evictions, lost or unfit nodes, exit code 75, pods that never "
        "started), and no new checkpoint.",
        "Check the cluster first, then the run.",
    ),
    "DeadlineExceeded": ("`deadlines.activeSeconds` are used up.", ""),
    "StoppedByWatchdog": (
        "A rule of `spec.watchdog` with the action `Stop` was broken.",
        "The message has rule and numbers; a checkpoint was saved, except after NaN.",
    ),
}

HEALTH: Mapping[HealthReason, str] = {
    "NothingFound": "No rule is broken.",
    "NotTraining": "No attempt runs, or the running one has not answered yet: status `Unknown`.",
    "NoStep": "`watchdog.noStep`: no optimizer step completes.",
    "NonFinite": "`watchdog.nonFinite`: NaN or infinity in loss or gradient, and the rule lets the run continue.",
    "Mismatch": "`watchdog.mismatch`: engine and trainer compute different log-probabilities with the same weights.",
    "NoGradient": "`watchdog.noGradient`: all completions of a group get the same reward, so nothing is learned.",
    "Stale": "`watchdog.staleness`: the training samples come from weights that are too old.",
    "EntropyLow": "`watchdog.entropy`: the policy's entropy is below its floor.",
}
NODES: Mapping[NodesReason, str] = {
    "NoneExcluded": "No node is excluded.",
    "NodesExcluded": "The run's pods avoid the nodes in the message, until the annotation `scalerl.io/fit-nodes` has "
    "their names, or `*`.",
}
FORECASTS: Mapping[ForecastReason, str] = {
    "NoPoints": "No held-out evaluation yet: status `Unknown`.",
    "Identified": "The interval is narrow enough to act on.",
    "Weak": "The interval is wide, or another law fits as well and disagrees.",
    "NotIdentified": "The points do not determine a fit.",
}
STOPS: Mapping[StopReason, str] = {
    "NoPolicyHolds": "No stop policy holds.",
    "Enforce": "The policy ends the run.",
    "Observe": "The policy only reports.",
}

EVENTS: Mapping[EventReason, tuple[Literal["Normal", "Warning"], str]] = {
    "AttemptCreated": ("Normal", "An attempt was created; its pods follow."),
    "Training": ("Normal", "An attempt has started to train; the message has its first step."),
    "AskedToEnd": ("Normal", "An attempt is told to save and end; the message has the cause and the observation."),
    "AttemptEnded": (
        "Normal",
        "An attempt has ended; the message has how, and the rule that fits. Warning for an unexpected end.",
    ),
    "BackingOff": ("Warning", "An attempt has failed; the message has the start of the next one."),
    "FailedCreate": (
        "Warning",
        "The API server refuses a pod or a shared object (quota, policy, template), or its name is in use.",
    ),
    "Unhealthy": ("Warning", "A rule of the watchdog is broken, whatever its action."),
    "ForecastChanged": ("Normal", "The forecast's verdict has changed."),
    "NodeExcluded": ("Warning", "A node failed the preflight; the run's later pods avoid it. The message has why."),
    "StopRecommended": ("Normal", "A stop policy holds; the message has its numbers and the budget that is left."),
    "InvalidSpec": ("Warning", "The spec is invalid, or the runtime refuses it; the message has every fault."),
    "Suspended": ("Normal", "The run is suspended and holds no device."),
    "Finished": ("Normal", "The budget is spent."),
    "AllPromptsSolved": ("Normal", "The run has finished: every training prompt is solved."),
    "StoppedByPolicy": ("Normal", "A stop policy has ended the run."),
    "FailedByRule": ("Warning", "A rule of `failurePolicy` has failed the run."),
    "RestartsExhausted": ("Warning", "The run has failed."),
    "RetriesExhausted": ("Warning", "The run has failed."),
    "DeadlineExceeded": ("Warning", "The run has failed."),
    "StoppedByWatchdog": ("Warning", "The run has failed."),
}

CAUSES: Mapping[StopCause, tuple[str, str]] = {
    "Interrupted": ("Ctrl-C, on one machine.", "nothing"),
    "Suspended": ("`spec.suspend`.", "nothing"),
    "StoppedByPolicy": ("An enforced stop policy.", "nothing: the run is over"),
    "DeadlineExceeded": ("`deadlines.activeSeconds`.", "nothing: the run is over"),
    "PendingDeadline": ("`deadlines.pendingSeconds`: some of its pods did not start.", "a retry"),
    "GangIncomplete": (
        "`deadlines.gangSeconds`: no room for all pods of a restarted run, but for `trainer.minReplicas`.",
        "nothing: the next attempt is smaller",
    ),
    "Stuck": ("The coordinator does not answer: 600 s, or `deadlines.startSeconds` at its start.", "a restart"),
    "GangBroken": ("A trainer's pod is gone.", "as that pod's end"),
    "WatchdogRestart": ("`spec.watchdog`, action `Restart`.", "a restart"),
    "WatchdogStop": ("`spec.watchdog`, action `Stop`.", "nothing: the run is over"),
}

INTRODUCTION = """\
# Conditions, reasons, events

Generated by `make generate` from `operator/scalerl_operator/run/conditions.py`; do not edit. For programs, and for
readers of `kubectl describe rlrun`. `scalerl run` writes the same conditions into `status.yaml`.

Every condition is in the first status already, so that `kubectl wait --for=condition=Complete` works at any time. A run
whose spec was never valid has `Progressing` alone.

## Conditions

"""
STANDING_INTRODUCTION = """
## Reasons of `Ready`, `Progressing`, `Suspended`, `Complete`, `Failed`

These five conditions have the same reason, which `kubectl get` shows as STATE. The second column has the condition that
is true with it: `Complete`, `Failed` or `Suspended`.

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
            "\n## Reasons of `NodesFit`\n\n",
            _table(("reason", "meaning"), NODES.items()),
            "\n## Reasons of `ForecastReady`\n\n",
            _table(("reason", "meaning"), FORECASTS.items()),
            "\n## Reasons of `StopRecommended`\n\n",
            _table(("reason", "meaning"), STOPS.items()),
            "\n## Events\n\nEvents of one run with the same reason and message are one Event with a count.\n\n",
            _table(("reason", "type", "when"), ((name, *row) for name, row in EVENTS.items())),
            "\n## Stop causes of an attempt\n\n`status.attempts[].stopCause`, and what the end costs of "
            "`failurePolicy`. Without a stop cause the rules of\n`spec.failurePolicy` apply.\n\n",
            _table(("cause", "origin", "costs"), ((name, *row) for name, row in CAUSES.items())),
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
