"""Uploads a model folder to a Hugging Face hub. I/O.

The hub's address is `huggingface_hub`'s own (HF_ENDPOINT), as is the token's cache. No message contains a token.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")


class HubError(RuntimeError):
    """The hub refuses the upload; another try changes nothing."""


class HubUnavailable(RuntimeError):
    """The hub does not answer, or is overloaded; a later try may succeed."""


def upload_folder(folder: Path, name: str, *, token: str | None, notify: Callable[[str], None]) -> str:
    """Upload `folder` as the model `name` (OWNER/NAME); return its address.

    A new repository is private. `token` None: the one that `hf auth login` stored. Raises HubError, HubUnavailable.
    """
    if not NAME.match(name):
        raise HubError(f"hub:{name} is no repository of a hub; need hub:OWNER/NAME")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    key = token or get_token()
    if not key:
        raise HubError("no token for the hub: set HF_TOKEN, or log in with `hf auth login`")
    api = HfApi(token=key)
    where = f"{api.endpoint}/{name}"
    try:
        url = api.create_repo(name, private=True, exist_ok=True)
        notify(f"uploading {_num_bytes(folder) / 2**20:,.1f} MiB to {where}")
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"scalerl export of {name}")
    except HFValidationError as error:
        raise HubError(f"hub:{name}: {_clean(error, key)}") from None
    except HfHubHTTPError as error:
        raise _explain(error, where, key) from None
    except (OSError, _client_error(HfHubHTTPError)) as error:
        raise HubUnavailable(f"no answer from {api.endpoint}: {type(error).__name__}: {_clean(error, key)}") from None
    return str(url)


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _client_error(kind: type[BaseException]) -> type[BaseException]:
    """Return the base of all errors of the hub's HTTP client, which changes with the version of huggingface_hub."""
    return next((each for each in kind.__mro__ if each.__name__ == "HTTPError"), OSError)


def _explain(error: Any, where: str, key: str) -> HubError | HubUnavailable:
    """Return the error for a person, by the hub's status code; chained errors would repeat the request's headers."""
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return HubError(f"{where}: the hub does not know the token (401): it is wrong or has expired")
    if status == 403:
        return HubError(f"{where}: the token may not write there (403): {_clean(error, key)}")
    if status in (0, 408, 429) or status >= 500:
        return HubUnavailable(f"{where}: the hub answers {status or 'nothing'}; try again later")
    return HubError(f"{where}: the hub answers {status}: {_clean(error, key)}")


def _clean(error: BaseException, key: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.replace(key, "***")[:300]
