"""`evalkit serve`: serve a checkpoint over the openpi WebSocket protocol."""

from __future__ import annotations

from typing import Annotated

import typer

from evalkit.cli._common import console, report_errors
from evalkit.cli._options import (
    BatchInvariant,
    CheckpointFile,
    MaxBatch,
    batching,
)


def serve(
    checkpoint: Annotated[str, typer.Option(metavar="ID", help="A checkpoint, as for `evalkit run`.")],
    suite: Annotated[
        str | None, typer.Option(metavar="SUITE", help="The suite it is to be asked about; its own if it has one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. Whoever can reach it may ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8000,
    checkpoint_file: CheckpointFile = None,
    max_batch: MaxBatch = None,
    batch_invariant: BatchInvariant = False,
) -> None:
    """Serve a checkpoint to other programs and machines, over the openpi WebSocket protocol.

    Any openpi client can ask it. evalkit itself does with --checkpoint remote:url=ws://HOST:PORT, and then sends along
    what the protocol lacks (the seed, the episode, the committed prefix): results equal those without a server.

    Examples:
        evalkit serve --checkpoint path/to/checkpoint --suite libero

        evalkit run libero --checkpoint remote:url=ws://127.0.0.1:8000 --split object --episodes 1
    """
    from evalkit.policies.checkpoint import find_checkpoint
    from evalkit.serving.server import serve as answer
    from evalkit.suite import load_suite

    with report_errors():
        found = find_checkpoint(checkpoint, checkpoint_file).having(batching(max_batch, batch_invariant))
        loaded = load_suite(found.suite(suite))
        err = console(stderr=True)
        with err.status(f"loading {found.id} ..."):
            policy = found.build(loaded)
        try:
            answer(
                policy,
                identity={"suite": loaded.name, "action_size": loaded.action.size, "checkpoint": found.identity()},
                host=host,
                port=port,
                ready=lambda url: err.print(f"{found.id} for {loaded.name} at {url} (Ctrl-C ends it)", soft_wrap=True),
                log=lambda line: err.print(line, markup=False, highlight=False, soft_wrap=True),
            )
        finally:
            policy.close()
