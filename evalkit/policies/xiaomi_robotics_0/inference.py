"""Action chunks for model requests: one forward pass for each request, as released, or for a batch of requests.

The rows of a batch are independent. The processor handles each request alone, its noise is drawn under its own seed as
the model would draw it for that request alone, and shorter prompts are padded on the left and masked. Only rounding
differs: a matrix product of another shape may round differently. In batch-invariant mode all passes have the same
shapes, whatever the number of requests, so that a chunk does not depend on other requests. One pass then has either no
prefixes or prefixes of one kind, because these take another path through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix
from evalkit.policies.xiaomi_robotics_0.continuation import Continuation, NormalizedPrefix, PrefixKind
from evalkit.policies.xiaomi_robotics_0.loading import LoadedCheckpoint
from evalkit.policies.xiaomi_robotics_0.post_training import LONGEST_PREFIX, PostTraining
from evalkit.policies.xiaomi_robotics_0.requests import ACTION_SIZE, ModelRequest

_ROUND_TO = 64  # batch-invariant prompts are padded to a multiple of this number of tokens


@dataclass(frozen=True)
class _ModelInput:
    """One request as the model takes it: tensors with a batch dimension of 1, on the model's device."""

    prompt: dict[str, Any]
    state: Any
    seed: int
    prefix: NormalizedPrefix | None

    @property
    def length(self) -> int:
        """The number of prompt tokens."""
        return int(self.prompt["input_ids"].shape[1])


class Inference:
    """Inference with a loaded checkpoint.

    Attributes:
        warnings: one line for each event that a reader of the results should know.
    """

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        robot_type: str,
        max_batch: int = 1,
        batch_invariant: bool = False,
        max_guidance: float = 5.0,
        post_training: PostTraining | None = None,
    ) -> None:
        """Prepare the mask and the statistics; run no inference.

        Args:
            loaded: the checkpoint.
            robot_type: the model's name for the robot; its statistics decode the actions.
            max_batch: the largest number of requests in one forward pass.
            batch_invariant: True if all passes have ``max_batch`` rows and prompts of rounded length.
            max_guidance: the largest weight with which a chunk is guided towards the running one.
            post_training: the settings of the authors' post-training code, or None for weights of the released kind.
        """
        self._model = loaded.model
        self._processor = loaded.processor
        self._robot_type = robot_type
        self._max_batch = max_batch
        self._invariant = batch_invariant
        self._mask = loaded.processor.get_action_mask(robot_type).to(loaded.model.device, loaded.model.dtype)
        self._continuation = Continuation(
            loaded.model, loaded.processor, robot_type, self._mask, max_guidance, post_training
        )
        self.warnings: list[str] = []
        self._warned: set[str] = set()

    @property
    def chunk_size(self) -> int:
        """The length T of the action chunks: that of the robot type's action mask."""
        return int(self._mask.shape[1])

    @property
    def supported_prefixes(self) -> tuple[PrefixKind, ...]:
        """The kinds of prefix that the model supports."""
        return self._continuation.kinds

    def chunks(self, requests: Sequence[ModelRequest]) -> list[np.ndarray]:
        """Return one decoded (T, 32) float32 chunk for each request, in order.

        Raises:
            PolicyProblem: the device's memory cannot hold one request (in batch-invariant mode, one batch), or the
                model does not support a request's prefix.
        """
        inputs = [self._prepare(request) for request in requests]
        chunks: list[np.ndarray | None] = [None] * len(inputs)
        for batch in self._batches(inputs):
            for index, chunk in zip(batch, self._run([inputs[i] for i in batch]), strict=True):
                chunks[index] = chunk
        return [chunk for chunk in chunks if chunk is not None]

    def check_invariance(self, examples: Sequence[ModelRequest]) -> None:
        """Raise PolicyProblem if, on this device, a chunk depends on its place in a batch or on other requests.

        Args:
            examples: test requests of different lengths; each is also tested with every supported kind of prefix.
        """
        zeros = np.zeros((self.chunk_size // 2, ACTION_SIZE), np.float32)
        for prefix in (None, *(Prefix(zeros, len(zeros) // 2, kind) for kind in self.supported_prefixes)):
            for one, other in permutations([replace(example, prefix=prefix) for example in examples], 2):
                alone = self.chunks([one])[0]
                for place in {self._max_batch // 2, self._max_batch - 1}:
                    batch = [other] * self._max_batch
                    batch[place] = one
                    if not np.array_equal(self.chunks(batch)[place], alone):
                        raise PolicyProblem(
                            "on this device a chunk depends on its place in the batch, so batch_invariant is not "
                            "possible: use max_batch=1"
                        )

    def _batches(self, inputs: Sequence[_ModelInput]) -> list[list[int]]:
        """Return the indices of each batch; in invariant mode, padded length and kind of prefix are the same in one."""
        groups: dict[Any, list[list[int]]] = {}
        for index, one in enumerate(inputs):
            kind = one.prefix and one.prefix.kind
            batches = groups.setdefault((_padded_length(one.length), kind) if self._invariant else None, [[]])
            if len(batches[-1]) == self._max_batch:
                batches.append([])
            batches[-1].append(index)
        return [batch for batches in groups.values() for batch in batches]

    def _prepare(self, request: ModelRequest) -> _ModelInput:
        """Return the model's input for a request, as the released server makes it."""
        import torch

        inputs = self._processor(
            text=[request.prompt], images=list(request.images), videos=None, padding=True, return_tensors="pt"
        ).to(self._model.device)
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
        state = torch.from_numpy(request.state).to(self._model.device, self._model.dtype).view(1, 1, -1)
        prompt = {name: inputs[name] for name in names}
        prefix = self._continuation.normalize(request.prefix)
        if prefix is not None and prefix.kind == "prefix" and prefix.committed > LONGEST_PREFIX:
            trained = f"the post-training code trains with at most {LONGEST_PREFIX}"
            self._warn_once(f"prefixes of {prefix.committed} actions: {trained}")
        return _ModelInput(prompt, state, request.seed, prefix)

    def _warn_once(self, warning: str) -> None:
        if warning not in self._warned:
            self._warned.add(warning)
            self.warnings.append(warning)

    def _run(self, batch: list[_ModelInput]) -> list[np.ndarray]:
        """Run one pass, or two of half the size if the memory cannot hold it."""
        import torch

        try:
            return self._forward(batch)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1 or self._invariant:
                remedy = "a smaller max_batch" if self._invariant else "another device or dtype"
                rows = f"{self._max_batch} requests" if self._invariant else "one request"
                raise PolicyProblem(f"the device's memory cannot hold {rows} at a time: use {remedy}") from error
        torch.cuda.empty_cache()
        half = len(batch) // 2
        if half < self._max_batch:
            self._max_batch = half
            self.warnings.append(f"out of memory with {len(batch)} requests in a pass: continued with {half}")
        return [chunk for start in range(0, len(batch), half) for chunk in self._run(batch[start : start + half])]

    def _forward(self, batch: list[_ModelInput]) -> list[np.ndarray]:
        """Run one pass; return (T, 32) float32 per request."""
        import torch

        rows = [*batch, *[batch[0]] * (self._max_batch - len(batch))] if self._invariant else batch
        with torch.no_grad(), self._continuation.applied([row.prefix for row in rows]) as finish:
            if len(rows) == 1 and not self._invariant:
                only = rows[0]
                output = self._model(state=only.state, action_mask=self._mask, seed=only.seed, **only.prompt)
            else:
                noise = torch.cat([self._noise(row.seed) for row in rows])
                mask = self._mask.repeat(len(rows), 1, 1)
                with _fixed_noise(noise) as fixed:
                    state = torch.cat([row.state for row in rows])
                    output = self._model(state=state, action_mask=mask, seed=rows[0].seed, **self._collate(rows))
                if fixed.draws != 1:
                    raise PolicyProblem(
                        f"the model's code draws its noise {fixed.draws} times instead of once: use max_batch=1"
                    )
            actions = finish(output.actions)
            decoded = self._processor.decode_action(actions, robot_type=self._robot_type).float()
            used = self._mask.bool().expand_as(actions)
            invalid = (used & ~actions.isfinite()).any(dim=2).any(dim=1)
            decoded[invalid] = float("nan")  # the whole row, so that no gripper rule can hide it
        return list(decoded.cpu().numpy()[: len(batch)])

    def _noise(self, seed: int) -> Any:
        """Draw the model's noise for one request alone: (1, T, 32). torch's own random state is preserved."""
        import torch

        devices = [self._mask.device] if self._mask.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            return torch.randn_like(self._mask)

    def _collate(self, rows: list[_ModelInput]) -> dict[str, Any]:
        """Return the rows' prompts as one batch: text padded on the left, images concatenated, as the model expects."""
        import torch
        from torch.nn.functional import pad

        longest = max(row.length for row in rows)
        length = _padded_length(longest) if self._invariant else longest
        pad_token = self._processor.tokenizer.pad_token_id
        return {
            "input_ids": torch.cat([pad(r.prompt["input_ids"], (length - r.length, 0), value=pad_token) for r in rows]),
            "attention_mask": torch.cat([pad(r.prompt["attention_mask"], (length - r.length, 0)) for r in rows]),
            "pixel_values": torch.cat([row.prompt["pixel_values"] for row in rows]),
            "image_grid_thw": torch.cat([row.prompt["image_grid_thw"] for row in rows]),
        }


def _padded_length(length: int) -> int:
    return -(-length // _ROUND_TO) * _ROUND_TO


def _fixed_noise(noise: Any) -> Any:
    """Return a context in which ``torch.randn_like(action_mask)`` returns ``noise``; its ``draws`` counts the calls."""
    import torch
    from torch.overrides import TorchFunctionMode

    class FixedNoise(TorchFunctionMode):  # type: ignore[misc]  # torch has no types here
        draws = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.randn_like and args[0].shape == noise.shape:
                self.draws += 1
                return noise.clone()
            return function(*args, **(kwargs or {}))

    return FixedNoise()
