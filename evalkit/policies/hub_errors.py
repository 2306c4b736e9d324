"""Errors of the ``huggingface_hub`` client as one line for a person, whichever HTTP library the client has."""

from __future__ import annotations

import errno

from evalkit.errors import EnvironmentProblem, EvalkitError, UsageError, excerpt


class HubUnreachable(EnvironmentProblem):
    """The hub did not answer, or offline mode is on."""


def offline() -> bool:
    """Return True if the client may not use the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def explained(error: Exception, repository: str, revision: str | None) -> EvalkitError:
    """Return the error for a person: HubUnreachable if another attempt may succeed or if there is no connection."""
    from huggingface_hub import constants, errors

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    status = status_of(error)
    if isinstance(error, errors.GatedRepoError):
        return UsageError(
            f"{repository} is gated: accept its terms at https://huggingface.co/{repository}, then {log_in}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repository}: the hub has no revision {revision!r} of it")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(f"{repository}: no such repository on the hub, or a private one; if it is private, {log_in}")
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{repository}: not a hub id (organisation/name)")
    if status in (401, 403):
        return UsageError(f"{repository}: the hub refuses access (HTTP {status}): {log_in}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem(f"{repository}: no space left in {constants.HF_HUB_CACHE}: make room, or set HF_HOME")
    if isinstance(error, PermissionError):
        return EnvironmentProblem(f"{error.filename or constants.HF_HUB_CACHE}: cannot be written: {error.strerror}")
    if status is not None and status < 500:
        return EnvironmentProblem(f"{repository}: {_reason(error)}")
    return HubUnreachable(f"{repository}: {_reason(error)}")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of the hub's answer, or None if there was none."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return None if status is None else int(status)


def _reason(error: Exception) -> str:
    """Return an error without a usable answer of the hub in a few words."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _reason(error.__cause__)
    if isinstance(error, errors.OfflineModeIsEnabled) or offline():
        return "the hub may not be asked (HF_HUB_OFFLINE is set)"
    kind = type(error).__name__  # of requests or of httpx, whichever the client has
    if kind in ("ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout"):
        return f"the hub cannot be reached ({constants.ENDPOINT})"
    if kind in ("ChunkedEncodingError", "RemoteProtocolError", "ReadError"):
        return "the hub broke off the download; repeat the command (finished files stay)"
    return f"the hub failed: {excerpt((str(error).strip() or kind).splitlines()[0], 160)}"
