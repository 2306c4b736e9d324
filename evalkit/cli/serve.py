"""`evalkit serve`: serve a checkpoint over the openpi WebSocket protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors, trust_of
from evalkit.cli._options import BatchInvariant, CheckpointFile, LockFile, MaxBatch, TrustRemoteCode, batching


def serve(
    checkpoint: Annotated[str, typer.Option(metavar="ID", help="A checkpoint, as for `evalkit run`.")],
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="The suite to serve it for. Default: the checkpoint's own suite."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Listen address. There is no authentication: any client that can reach it can query the policy."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen port. 0 picks a free one.")] = 8000,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Let web pages of this origin (https://HOST[:PORT]) connect. Repeatable. Default: no web page can.",
        ),
    ] = None,
    checkpoint_file: CheckpointFile = None,
    trust_remote_code: TrustRemoteCode = False,
    lock: LockFile = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
) -> None:
    """Serve a checkpoint to other programs and machines, over the openpi WebSocket protocol.

    Any openpi client can query it. evalkit itself does so with --checkpoint remote:url=ws://HOST:PORT and also sends
    the seed, the episode and the committed prefix, so results equal those without a server.

    Examples:
        evalkit serve --checkpoint path/to/checkpoint --suite libero

        evalkit run libero --checkpoint remote:url=ws://127.0.0.1:8000 --split object --episodes 1
    """
    from evalkit.policies.checkpoint import find_checkpoint
    from evalkit.policies.trust import confirm
    from evalkit.serving.server import parse_origin
    from evalkit.serving.server import serve as serve_policy
    from evalkit.suite import load_suite

    with report_errors():
        origins = [parse_origin(origin) for origin in allow_origin or ()]
        chosen = find_checkpoint(checkpoint, checkpoint_file).having(batching(max_batch, batch_invariant))
        loaded = load_suite(chosen.suite(suite))
        chosen.check_ready(loaded)
        chosen = confirm(chosen, trust_of(trust_remote_code, lock))
        err = console(stderr=True)
        with err.status(f"loading {chosen.id} ..."):
            policy = chosen.build(loaded)
        try:
            serve_policy(
                policy,
                identity={
                    "suite": loaded.name,
                    "action_size": loaded.action.size,
                    "action_dtype": loaded.action.dtype,
                    "checkpoint": chosen.identity(),
                },
                host=host,
                port=port,
                allowed_origins=origins,
                ready=lambda url: err.print(
                    f"{chosen.id} for {loaded.name} at {url} (Ctrl-C stops it)", soft_wrap=True
                ),
                log=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
            )
        finally:
            policy.close()
