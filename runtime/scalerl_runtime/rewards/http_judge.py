"""Asks a judge behind an URL: retries, a budget, a cache, and the outage that ends an attempt. I/O."""

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import aiohttp

from scalerl_api.reward import HttpJudge
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.rewards.http_reply import Unreadable, build_body, read_reward
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.types import Reward

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5  # doubles with each repetition
MAX_DELAY_SECONDS = 30.0  # also of a Retry-After: the deadline of an outage must see the judge again
MAX_REPLY_BYTES = 2**20
CACHE_ENTRIES = 100_000  # a digest and a reward each
BUSY = (425, 429)  # the judge answers, and the same request may succeed later
PASSING = (401, 403, 404)  # of a judge that has answered: its gateway restarts, or its token is renewed; and 5xx
NUM_SHOWN = 200  # characters of a reply in a message


class JudgeUnavailable(RuntimeError):
    """A judge does not answer; a later attempt may succeed."""


Failure = Literal["refused", "unreadable", "busy", "outage"]


class _Failed(Exception):
    """One request failed. All kinds but `refused` may pass."""

    def __init__(self, kind: Failure, words: str, delay_seconds: float = 0.0):
        super().__init__(words)
        self.kind = kind
        self.delay_seconds = delay_seconds


@dataclass(frozen=True)
class JudgeSettings:
    """One entry of `reward.http`, and what comes from elsewhere."""

    judge: HttpJudge
    path: str  # in the spec
    token: str
    outage_seconds: float  # without one success, before the attempt ends


def find_settings(judge: HttpJudge, path: str, variables: Mapping[str, str], outage_seconds: float) -> JudgeSettings:
    """Return the settings of a judge, with its token. Raises InvalidRun; its value is not shown."""
    name = judge.token_variable
    token = "" if name is None else variables.get(name, "").strip()
    if name is not None and not token:
        allowed = (
            "an environment variable of the trainer; on a cluster from a Secret, by trainer.template (docs/judges.md)"
        )
        raise InvalidRun([Fault(f"{path}.tokenVariable", name, f"{allowed}: it is not set, or empty")])
    if not token.isascii() or not (token.isprintable() or not token) or " " in token:
        raise InvalidRun([Fault(f"{path}.tokenVariable", name or "", "a token of printable ASCII without blanks")])
    return JudgeSettings(judge, path, token, outage_seconds)


class HttpBackend:
    """Asks one judge; at most `maxConcurrent` requests at once."""

    def __init__(
        self,
        settings: JudgeSettings,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        """`now`: a monotonic clock (s)."""
        self._settings = settings
        self._judge = settings.judge
        self._now = now
        self._sleep = sleep
        self._turns = asyncio.Semaphore(settings.judge.max_concurrent)
        self._session: aiohttp.ClientSession | None = None
        self._cache: OrderedDict[bytes, Reward] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Reward]] = {}  # questions that wait for their reply
        self._num_requests = 0
        self._last_reply = now()
        self._sets_temperature = True
        self._has_replied = False

    async def grade(self, request: GradeRequest) -> Reward:
        """Return the judge's reward; none if it gives none. Raises InvalidRun: budget spent; JudgeUnavailable."""
        if not self._judge.cache:
            return await self._ask(request)
        key = hashlib.sha256(json.dumps(request.to_list()).encode()).digest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        task = self._asking.get(key)
        if task is None:
            # A task of its own: one caller's cancellation must not take the reward from the others.
            task = self._asking[key] = asyncio.create_task(self._ask(request))
            task.add_done_callback(lambda done: self._settle(key, done))
        return await asyncio.shield(task)

    def _settle(self, key: bytes, done: asyncio.Task[Reward]) -> None:
        """Keep a reward; a failure is asked again by the next caller."""
        del self._asking[key]
        if done.cancelled() or done.exception() is not None or done.result().reward is None:
            return
        self._cache[key] = done.result()
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    async def check(self, request: GradeRequest) -> None:
        """Ask once, before the run starts. Raises InvalidRun if the judge refuses, JudgeUnavailable if it is down."""
        began, attempt = self._now(), 0
        while True:
            try:
                await self._send(request)
                return
            except _Failed as error:
                has_failed = error.kind == "unreadable" and attempt >= self._judge.retries
                if has_failed or error.kind == "refused":
                    allowed = f"a judge that answers one question with a score ({error})"
                    raise InvalidRun([Fault(f"{self._settings.path}.url", self._judge.url, allowed)]) from error
                if self._now() - began > self._settings.outage_seconds:
                    raise self._unavailable(error) from error
                delay = _delay(error, attempt)
                log.log(logging.INFO if attempt else logging.WARNING, "judge %s: %s", self._judge.name, error)
            await self._sleep(delay)
            attempt += 1

    async def _ask(self, request: GradeRequest) -> Reward:
        """Ask until there is a score, or `retries` are used; a judge that answers nobody, until it is down too long."""
        attempt, began = 0, self._now()
        while True:
            try:
                return await self._send(request)
            except _Failed as error:
                is_down = error.kind == "outage" and self._last_reply <= began
                if is_down and self._now() - max(began, self._last_reply) > self._settings.outage_seconds:
                    raise self._unavailable(error) from error
                if error.kind == "refused" or (attempt >= self._judge.retries and not is_down):
                    return Reward(None, f"http:{self._judge.name}: {error}")
                delay = _delay(error, attempt)
            await self._sleep(delay)
            attempt += 1

    def _unavailable(self, error: _Failed) -> JudgeUnavailable:
        limit = self._settings.outage_seconds
        return JudgeUnavailable(f"asking the judge {self._judge.name}: no reply for {limit:g} s ({error})")

    async def _send(self, request: GradeRequest) -> Reward:
        """Send one request. Raises _Failed, InvalidRun."""
        async with self._turns:
            budget = self._judge.max_requests
            if budget is not None and self._num_requests >= budget:
                allowed = f"more: this attempt has sent that many requests to the judge {self._judge.name}"
                raise InvalidRun([Fault(f"{self._settings.path}.maxRequests", str(budget), allowed)])
            self._num_requests += 1
            body = build_body(self._judge, request, sets_temperature=self._sets_temperature)
            status, headers, text = await self._post(json.dumps(body).encode())
        self._check_status(status, headers, text)
        self._last_reply, self._has_replied = self._now(), True
        try:
            return Reward(read_reward(self._judge, text))
        except Unreadable as error:
            raise _Failed("unreadable", self._clean(str(error))) from error

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], str]:
        if self._session is None:
            limit = aiohttp.ClientTimeout(total=self._judge.timeout_seconds)
            connector = aiohttp.TCPConnector(limit=self._judge.max_concurrent)
            self._session = aiohttp.ClientSession(timeout=limit, connector=connector)
        headers = {"Content-Type": "application/json"}
        if self._settings.token:
            headers["Authorization"] = f"Bearer {self._settings.token}"
        # No redirect: the token would go to an address that the spec does not name.
        posting = self._session.post(self._judge.url, data=body, headers=headers, allow_redirects=False)
        try:
            async with posting as reply:
                return reply.status, reply.headers, await _read(reply)
        except TimeoutError as error:
            raise _Failed("outage", f"no reply within {self._judge.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed("outage", f"{type(error).__name__}: {self._clean(str(error))}") from error

    def _check_status(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """Raise _Failed unless the request succeeded."""
        if status // 100 == 2:
            return
        words = f"HTTP status {status}: {self._clean(text)}"
        delay = _retry_after(headers.get("Retry-After", ""))
        if status == 400 and self._sets_temperature and "temperature" in text:
            self._sets_temperature = False  # some models have only the temperature 1
            raise _Failed("busy", words)
        if status in BUSY:
            raise _Failed("busy", words, delay)
        if status >= 500 or status == 408 or (status in PASSING and self._has_replied):
            raise _Failed("outage", words, delay)
        if status // 100 == 3:
            words = f"HTTP status {status} to {self._clean(headers.get('Location', ''))}; redirects are not followed"
        raise _Failed("refused", words)

    def _clean(self, text: str) -> str:
        """Return the start of `text` on one line, without the token: some servers repeat it."""
        if self._settings.token:
            text = text.replace(self._settings.token, "***")
        return " ".join(text.split())[:NUM_SHOWN]

    async def close(self) -> None:
        """See `VerifierBackend`."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


async def _read(reply: aiohttp.ClientResponse) -> str:
    """Return the start of a body; one beyond MAX_REPLY_BYTES is no reply of a judge, and must not fill the memory."""
    parts: list[bytes] = []
    async for part in reply.content.iter_chunked(65536):
        parts.append(part)
        if sum(map(len, parts)) > MAX_REPLY_BYTES:
            break
    return b"".join(parts).decode(errors="replace")


def _delay(error: _Failed, attempt: int) -> float:
    """Return the wait (s) before a repetition: the server's, else one that doubles."""
    return min(MAX_DELAY_SECONDS, max(error.delay_seconds, FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 10)))


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 if it has neither."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
