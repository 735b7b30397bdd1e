"""The command line: wrong usage names the option and what is allowed; parsing imports little; shells complete it."""

import subprocess
import sys
from pathlib import Path

import pytest

from scalerl_operator.cli.main import main
from scalerl_operator.cli.options import CompareOptions, LogsOptions, StatusOptions
from scalerl_operator.cli.parser import parse_arguments
from scalerl_operator.controller.options import OperatorOptions

CURVES = ["compare", "a.csv", "b.csv", "--x", "hours", "--y", "rate"]


def test_options_keep_their_defaults() -> None:
    assert parse_arguments(["status"]) == StatusOptions(
        target=None, output="table", watch=False, runs=None, namespace=None, context=None
    )
    assert parse_arguments(["operator", "--image", "i", "--token-key-file", "k"]) == OperatorOptions(
        image="i",
        token_key_file=Path("k"),
        namespaces=(),
        lease_namespace="default",
        lease_name="scalerl-operator",
        identity=None,
        http=8081,
        poll_seconds=10.0,
        prometheus_url=None,
        prometheus_token_file=None,
        prometheus_ca_file=None,
        network_policy=None,
        cache_host_path=None,
        cache_claim=None,
    )


def test_short_options_may_be_joined() -> None:
    assert parse_arguments(["logs", "tiny", "-fp", "-nresearch", "--tail", "0"]) == LogsOptions(
        target="tiny",
        follow=True,
        tail=0,
        role=None,
        index=None,
        previous=True,
        timestamps=False,
        runs=None,
        namespace="research",
        context=None,
    )


def test_replicates_takes_all_files_up_to_the_next_option() -> None:
    options = parse_arguments([*CURVES, "--replicates", "c.csv", "d.csv", "--picture", "p.png"])
    assert isinstance(options, CompareOptions)
    assert options.files == (Path("a.csv"), Path("b.csv"))
    assert options.replicates == (Path("c.csv"), Path("d.csv"))
    assert options.picture == Path("p.png")


WRONG = [
    (["fit", "x.csv", "--x", "a"], "'--y'"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--budget", "-1"], "'--budget': -1 is not a number above 0"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--budget", "nan"], "'--budget': nan is not a number above 0"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--budget", "much"], "'--budget': much is not a number above 0"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--target", "1.5"], "'--target': 1.5 is not in [0, 1]"),
    ([*CURVES, "--completions", "0"], "'--completions': 0 is not in the range x>=1"),
    ([*CURVES, "--stderr", "c", "--completions", "9"], "--stderr and --completions exclude each other"),
    ([*CURVES, "--margin", ".1", "--replicates", "x.csv"], "--margin and --replicates exclude each other"),
    ([*CURVES, "--replicates", "--picture", "p.png"], "'--replicates' needs at least one value"),
    ([*CURVES, "--replicates"], "'--replicates' needs at least one value"),
    (["status", "-o", "json"], "'json' is not one of 'table', 'yaml'"),
    (["logs", "tiny", "--index", "-1"], "'--index': -1 is not in the range x>=0"),
    (
        ["operator", "--image", "i", "--token-key-file", "k", "--prometheus-url", "prom:9090"],
        "prom:9090 is not http://",
    ),
    (["completion", "powershell"], "'powershell' is not one of 'bash', 'zsh', 'fish'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_usage_names_the_option_and_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_parsing_imports_nothing_heavy() -> None:
    heavy = "numpy scipy matplotlib rich aiohttp pydantic yaml kopf"
    code = (
        "import sys; from scalerl_operator.cli.main import main\n"
        "try: main(['--help'])\n"
        f"finally: found = sys.modules.keys() & {set(heavy.split())!r}; assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def complete(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the completions for the last of `words`, as `kind,value`."""
    monkeypatch.setenv("_SCALERL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    return capsys.readouterr().out.split()


COMPLETIONS = [
    ("scalerl st", ["plain,status"], "a command"),
    ("scalerl status --wat", ["plain,--watch"], "an option"),
    ("scalerl logs tiny --role t", ["plain,trainer"], "a choice"),
    ("scalerl report run", ["dir,run"], "a run's folder"),
    ("scalerl fit cur", ["file,cur"], "a file"),
]


@pytest.mark.parametrize(("words", "wanted"), [r[:2] for r in COMPLETIONS], ids=[r[2] for r in COMPLETIONS])
def test_a_shell_completes(
    words: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete(words, monkeypatch, capsys) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_scalerl(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert f"_SCALERL_COMPLETE={shell}_complete" in out
    assert err == ""
