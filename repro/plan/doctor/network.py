"""Checks of variables that decide where libraries look for files. No connection is opened."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.plan.doctor.finding import Finding, Subject
from repro.plan.doctor.folders import find_existing

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
CACHES = ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
TRUE = ("1", "on", "yes", "true")
"""Values, in any case, that huggingface_hub takes for true."""


def is_network_forbidden(environment: Mapping[str, str]) -> bool:
    """Whether the environment forbids huggingface_hub the network, which reads the first of the two variables that is set."""
    value = next((environment[name] for name in OFFLINE if environment.get(name)), "")
    return value.lower() in TRUE


def check_hub(subject: Subject) -> Iterator[Finding]:
    """Report the variables of the Hugging Face Hub; a token's value is never shown."""
    environment = subject.environment
    parts = [f"{name}={environment[name]}" for name in (*OFFLINE, "HF_HOME") if environment.get(name)]
    parts += [f"HF_ENDPOINT={hide_login(environment['HF_ENDPOINT'])}"] if environment.get("HF_ENDPOINT") else []
    parts += ["HF_TOKEN is set"] if environment.get("HF_TOKEN") else []
    found = ", ".join(parts) or "no HF_ variable is set"
    to_download = [item.asset for item in subject.missing if item.asset]
    if is_network_forbidden(environment) and to_download:
        what = f"{found}: the network is forbidden, and {', '.join(to_download)} are not here"
        yield Finding("hub", "warn", what, "run `repro fetch` where the network is allowed, or with --from FOLDER")
    elif environment.get("HF_TOKEN", "").strip() != environment.get("HF_TOKEN", ""):
        yield Finding("hub", "warn", f"{found}, with spaces around it", "set HF_TOKEN without them")
    else:
        yield Finding("hub", "ok", found)


def check_proxies(subject: Subject) -> Iterator[Finding]:
    """Report proxies; an address that libraries cannot read is a warning."""
    found, wrong = [], []
    for name in PROXIES:
        # Libraries read the lower case first.
        value = subject.environment.get(name) or subject.environment.get(name.upper())
        if value:
            found.append(f"{name} {hide_login(value)}")
            wrong += [] if re.fullmatch(r"(https?|socks[45]h?)://\S+", value) else [name]
    if wrong:
        yield Finding("proxy", "warn", ", ".join(found), f"write {' and '.join(wrong)} as http://HOST:PORT")
    else:
        yield Finding("proxy", "ok", ", ".join(found) or "no proxy is set")


def check_caches(subject: Subject) -> Iterator[Finding]:
    """Report folders of libraries' caches that cannot be written."""
    environment = subject.environment
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  # Path.home raises if there is none
    places = {"HOME": home} | {name: environment[name] for name in CACHES if environment.get(name)}
    existing = {name: find_existing(Path(place).absolute()) for name, place in places.items()}
    closed = [
        f"{name} ({places[name]})"
        for name, place in existing.items()
        if not (place.is_dir() and os.access(place, os.W_OK))
    ]
    if closed:
        # Rows keep libraries' caches in the workspace.
        yield Finding("caches", "ok", f"not writable: {', '.join(closed)}: caches are kept in the workspace")
    else:
        yield Finding("caches", "ok", "home and caches can be written")


def hide_login(address: str) -> str:
    """Return an address without user name and password."""
    # To the last @, which passwords may have too; proxies may be written without a scheme.
    return re.sub(r"^(\w+://)?.*@", r"\1", address)
