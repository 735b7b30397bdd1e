"""A verifier for tests, `python:toy_reward:is_even`: groups nearly always differ, whatever the model can do."""


def is_even(prompt: str, completion: str, answer: str) -> bool:  # noqa: ARG001 # the signature of a user's verifier
    return len(completion) % 2 == 0
