"""Published test sets by name: source, columns, verifier and samples, as fields of `data.downstream`. PURE."""

from typing import Any, Literal

BenchmarkName = Literal["aime-24", "gsm8k", "humaneval", "math-500"]

BENCHMARKS: dict[str, dict[str, Any]] = {
    "gsm8k": {
        "source": "openai/gsm8k",
        "config": "main",
        "split": "test",
        "promptField": "question",
        "verifier": "math",
        "samplesPerPrompt": 1,
    },
    "math-500": {
        "source": "HuggingFaceH4/MATH-500",
        "split": "test",
        "promptField": "problem",
        "verifier": "math",
        "samplesPerPrompt": 4,
    },
    "aime-24": {
        "source": "HuggingFaceH4/aime_2024",
        "promptField": "problem",
        "verifier": "math",
        "samplesPerPrompt": 32,
    },
    "humaneval": {
        "source": "openai/openai_humaneval",
        "split": "test",
        "answerField": "test",
        "verifier": "code",
        "samplesPerPrompt": 8,
    },
}
