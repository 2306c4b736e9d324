"""Requests to action chunks: one forward pass for one request, as released, or for a batch of them.

A batch never mixes its rows: each request goes through the processor by itself, its noise is drawn under its own seed
as the model would draw it for that request alone, and shorter prompts are padded on the left and masked. What is left
is rounding: a matrix product of another shape may round otherwise. In batch-invariant mode all passes have the same
shapes, whatever the number of requests, so that a chunk does not depend on what else was asked at the time; and one
pass has either no prefixes or prefixes of one kind, which take another way through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix
from evalkit.policies.xiaomi_robotics_0.guidance import Continuation, Kind, Wanted
from evalkit.policies.xiaomi_robotics_0.loading import Loaded
from evalkit.policies.xiaomi_robotics_0.requests import ACTION_SIZE, ModelRequest

_ROUND_TO = 64  # batch-invariant prompts are padded to a multiple of so many tokens


@dataclass(frozen=True)
class _Prepared:
    """One request as the model takes it: tensors with a batch dimension of 1, on the model's device."""

    prompt: dict[str, Any]
    state: Any
    seed: int
    wanted: Wanted | None

    @property
    def length(self) -> int:
        return int(self.prompt["input_ids"].shape[1])


class Inference:
    """A loaded checkpoint that answers requests.

    ``remarks`` collects what happened on the way that a reader of the results should know.
    """

    def __init__(
        self,
        loaded: Loaded,
        robot_type: str,
        max_batch: int = 1,
        batch_invariant: bool = False,
        max_guidance: float = 5.0,
    ) -> None:
        """Nothing is computed yet.

        Args:
            loaded: the checkpoint.
            robot_type: the model's name for the robot; its statistics decode the actions.
            max_batch: most requests in one forward pass.
            batch_invariant: whether all passes have ``max_batch`` rows and prompts of rounded length.
            max_guidance: the largest weight with which a chunk is guided towards the running one.
        """
        self._model = loaded.model
        self._processor = loaded.processor
        self._robot_type = robot_type
        self._max_batch = max_batch
        self._invariant = batch_invariant
        self._mask = loaded.processor.get_action_mask(robot_type).to(loaded.model.device, loaded.model.dtype)
        self._continuation = Continuation(loaded.model, loaded.processor, robot_type, self._mask, max_guidance)
        self.warnings: list[str] = []

    @property
    def chunk(self) -> int:
        """The time length T of the action chunks: that of the robot type's action mask."""
        return int(self._mask.shape[1])

    @property
    def supported_prefixes(self) -> tuple[Kind, ...]:
        """The kinds of prefix that the model can continue."""
        return self._continuation.kinds

    def chunks(self, requests: Sequence[ModelRequest]) -> list[np.ndarray]:
        """One decoded (T, 32) float32 chunk for each request, in order.

        Raises:
            PolicyProblem: the device's memory does not hold one request, or in batch-invariant mode the batch; or the
                model cannot continue a request's prefix.
        """
        prepared = [self._prepare(request) for request in requests]
        replies: list[np.ndarray | None] = [None] * len(prepared)
        for group in self._groups(prepared):
            for index, chunk in zip(group, self._run([prepared[i] for i in group]), strict=True):
                replies[index] = chunk
        return [reply for reply in replies if reply is not None]

    def check_invariance(self, examples: Sequence[ModelRequest]) -> None:
        """Raises PolicyProblem where a chunk depends on its place in a pass or on its neighbours on this device.

        Args:
            examples: requests to try it with, of different lengths; each is also tried with every kind of prefix.
        """
        still = np.zeros((self.chunk // 2, ACTION_SIZE), np.float32)
        for prefix in (None, *(Prefix(still, len(still) // 2, kind) for kind in self.supported_prefixes)):
            for one, other in permutations([replace(example, prefix=prefix) for example in examples], 2):
                alone = self.chunks([one])[0]
                for place in {self._max_batch // 2, self._max_batch - 1}:
                    among = [other] * self._max_batch
                    among[place] = one
                    if not np.array_equal(self.chunks(among)[place], alone):
                        raise PolicyProblem(
                            "on this device a chunk depends on its place in the batch, so batch_invariant cannot be "
                            "kept: use max_batch=1"
                        )

    def _groups(self, prepared: Sequence[_Prepared]) -> list[list[int]]:
        """Which requests share a pass: in invariant mode only those of the same padded length and kind of prefix."""
        groups: dict[Any, list[list[int]]] = {}
        for index, one in enumerate(prepared):
            kind = one.wanted and one.wanted.kind
            batches = groups.setdefault((_rounded(one.length), kind) if self._invariant else None, [[]])
            if len(batches[-1]) == self._max_batch:
                batches.append([])
            batches[-1].append(index)
        return [batch for batches in groups.values() for batch in batches]

    def _prepare(self, request: ModelRequest) -> _Prepared:
        """What the released server makes of a request."""
        import torch

        inputs = self._processor(
            text=[request.prompt], images=list(request.images), videos=None, padding=True, return_tensors="pt"
        ).to(self._model.device)
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
        state = torch.from_numpy(request.state).to(self._model.device, self._model.dtype).view(1, 1, -1)
        prompt = {name: inputs[name] for name in names}
        return _Prepared(prompt, state, request.seed, self._continuation.wanted(request.prefix))

    def _run(self, batch: list[_Prepared]) -> list[np.ndarray]:
        """One pass, or where memory does not hold it, two of half the size."""
        import torch

        try:
            return self._forward(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1 or self._invariant:
                smaller = "a smaller max_batch" if self._invariant else "another device or dtype"
                rows = f"{self._max_batch} requests" if self._invariant else "one request"
                raise PolicyProblem(f"the device's memory does not hold {rows} at a time: use {smaller}") from error
        torch.cuda.empty_cache()
        half = len(batch) // 2
        if half < self._max_batch:
            self._max_batch = half
            self.warnings.append(f"out of memory with {len(batch)} requests in a pass: went on with {half}")
        return [chunk for start in range(0, len(batch), half) for chunk in self._run(batch[start : start + half])]

    def _forward(self, batch: list[_Prepared]) -> list[np.ndarray]:
        """(T, 32) float32 per request."""
        import torch

        rows = [*batch, *[batch[0]] * (self._max_batch - len(batch))] if self._invariant else batch
        wanted = [row.wanted for row in rows]
        prefixes = self._continuation.arguments(wanted)
        with torch.no_grad(), self._continuation.guiding(wanted):
            if len(rows) == 1 and not self._invariant:
                only = rows[0]
                output = self._model(
                    state=only.state, action_mask=self._mask, seed=only.seed, **only.prompt, **prefixes
                )
            else:
                noise = torch.cat([self._noise(row.seed) for row in rows])
                mask = self._mask.repeat(len(rows), 1, 1)
                with _noise_given(noise) as given:
                    state = torch.cat([row.state for row in rows])
                    output = self._model(
                        state=state, action_mask=mask, seed=rows[0].seed, **self._collated(rows), **prefixes
                    )
                if given.times != 1:
                    raise PolicyProblem(
                        f"the model's code draws its noise {given.times} times where once was expected: use max_batch=1"
                    )
            decoded = self._processor.decode_action(output.actions, robot_type=self._robot_type).float()
            used = self._mask.bool().expand_as(output.actions)
            broken = (used & ~output.actions.isfinite()).any(dim=2).any(dim=1)
            decoded[broken] = float("nan")  # all of the row, so that no rule for the gripper can hide it
        return list(decoded.cpu().numpy()[: len(batch)])

    def _noise(self, seed: int) -> Any:
        """What the model draws for this request alone: (1, T, 32); torch's own random state stays as it was."""
        import torch

        devices = [self._mask.device] if self._mask.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            return torch.randn_like(self._mask)

    def _collated(self, rows: list[_Prepared]) -> dict[str, Any]:
        """The rows' prompts as one batch, padded on the left; images one after the other, as the model takes them."""
        import torch
        from torch.nn.functional import pad

        longest = max(row.length for row in rows)
        length = _rounded(longest) if self._invariant else longest
        filler = self._processor.tokenizer.pad_token_id
        return {
            "input_ids": torch.cat([pad(r.prompt["input_ids"], (length - r.length, 0), value=filler) for r in rows]),
            "attention_mask": torch.cat([pad(r.prompt["attention_mask"], (length - r.length, 0)) for r in rows]),
            "pixel_values": torch.cat([row.prompt["pixel_values"] for row in rows]),
            "image_grid_thw": torch.cat([row.prompt["image_grid_thw"] for row in rows]),
        }


def _rounded(length: int) -> int:
    return -(-length // _ROUND_TO) * _ROUND_TO


def _noise_given(noise: Any) -> Any:
    """A context in which the model's one ``torch.randn_like(action_mask)`` returns ``noise``; ``times`` counts them."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Given(TorchFunctionMode):  # type: ignore[misc]  # torch has no types here
        times = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.randn_like and args[0].shape == noise.shape:
                self.times += 1
                return noise.clone()
            return function(*args, **(kwargs or {}))

    return Given()
