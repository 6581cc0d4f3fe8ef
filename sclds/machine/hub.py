"""The Hugging Face hub as this machine reaches it: what lies in its cache first, and a sentence where it cannot be had.

The libraries of the hub try again for a minute or more before they give up; a run that wants a name which is not in
the cache says so at once.
"""

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

from sclds.config.errors import UserError

T = TypeVar("T")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""What the hub can know; anything else is a path."""
SECONDS = 5.0
"""Longest wait for the hub's first answer."""


def from_hub(load: Callable[..., T], name: str, what: str, **settings: Any) -> T:
    """Load something by a hub name or local path, without the network where that is possible.

    Args:
        load: A `from_pretrained`.
        name: Hub name, or a path.
        what: Begins the sentence if the hub cannot be reached: "The tokenizer 'roberta-base'".
        settings: Further arguments of `load`.

    Returns:
        What `load` returns. Its own errors pass: the name is wrong, or what lies there cannot be read.

    Raises:
        UserError: There is nothing at the path; or the name is not in the cache, and the hub cannot be reached or is
            switched off.
    """
    if os.path.exists(name):
        return load(name, **settings)
    if not _HUB_NAME.fullmatch(name):
        raise UserError(f"{what} is a path at which there is nothing; check it, or give a name of the hub")
    try:
        return load(name, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, TypeError):  # which of them says "not in the cache" differs by class
        hindrance = _hindrance()
    if hindrance:
        from huggingface_hub import constants

        raise UserError(
            f"{what} is no path and not in the cache {constants.HF_HUB_CACHE}, and {hindrance}: run "
            f"`hf download {name}` where the hub can be reached and copy the cache here (HF_HOME names another "
            f"folder), or give a path"
        )
    return load(name, **settings)


def _hindrance() -> str:
    """Return why the hub cannot be asked; empty where it answers."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE keeps this process off the hub"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as fault:  # whichever HTTP library the hub's client uses, each has errors of its own
        return (
            f"the hub ({constants.ENDPOINT}) cannot be reached ({type(fault).__name__}; HF_HUB_OFFLINE=1 skips trying)"
        )
    return ""
