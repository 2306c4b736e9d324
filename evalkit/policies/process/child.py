"""The policy's process: builds the policy in the family's environment and answers requests until it is told to stop.

Run by path through ``evalkit/worker/_bootstrap.py``, as a worker. Whatever the policy prints goes to standard error.
The channel is a socket of its own, so that printing cannot disturb it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from evalkit.policies.factories import load_factory, parameters_of
from evalkit.policies.process import messages
from evalkit.policy import Policy, PolicyWarnings
from evalkit.suite import Suite
from evalkit.worker.wire import Channel, Closed


def main(descriptor: str) -> None:
    """Serve the host on an inherited socket. Exit quietly when the host has gone."""
    os.dup2(2, 1)
    channel = Channel(socket.socket(fileno=int(descriptor)))
    try:
        _serve(channel)
    except (Closed, KeyboardInterrupt):
        pass
    finally:
        os._exit(0)  # a library's threads must not keep the process


def _serve(channel: Channel) -> None:
    policy: Policy | None = None
    while (message := channel.receive())["type"] != "Stop":
        try:
            if message["type"] == "Build":
                policy = _build(message)
                answer = messages.built(policy.spec)
            else:
                assert policy is not None, "Act before Build"
                answer = _act(policy, message)
        except (Exception, SystemExit) as error:  # code that ends the process must not end it without a word
            answer = messages.failed(error)
        channel.send(answer)
    if policy is not None:
        policy.close()


def _build(message: dict[str, Any]) -> Policy:
    suite = Suite.model_validate(message["suite"])
    suite._folder, suite._reference = Path(message["folder"]), message["reference"]
    factory = load_factory(message["policy"], Path(message["beside"]) if message["beside"] else None)
    policy: Policy = factory(suite, parameters_of(factory, message["policy"]).model_validate(message["parameters"]))
    return policy


def _act(policy: Policy, message: dict[str, Any]) -> dict[str, Any]:
    chunks = policy.act(messages.requests_of(message))
    return messages.chunks(chunks, policy.warnings() if isinstance(policy, PolicyWarnings) else [])
