"""Continuation of the running chunk: by the prefix that post-trained weights take, or by guiding the model's flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix
from evalkit.policies.xiaomi_robotics_0.guidance import guided, soft_mask
from evalkit.policies.xiaomi_robotics_0.post_training import PostTraining, post_trained

PrefixKind = Literal["prefix", "rtc"]
_LARGE = (
    2.0**20
)  # the standard deviation is decoded from this value, a power of two next to which the mean is negligible


@dataclass(frozen=True)
class NormalizedPrefix:
    """A prefix in the model's normalised action space.

    Attributes:
        kind: ``prefix`` or ``rtc``.
        committed: number of actions that are executed whatever the reply, at most T.
        length: number of actions (K), at most T.
        actions: (1, T, 32) float32 tensor, normalised; 0 from K on and in dimensions that the robot does not use.
    """

    kind: PrefixKind
    committed: int
    length: int
    actions: Any


class Continuation:
    """The prefixes of one loaded model.

    Attributes:
        kinds: the supported kinds of prefix: ``prefix`` if the weights were trained with prefixes, ``rtc`` if the flow
            can be guided.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        robot_type: str,
        mask: Any,
        max_guidance: float,
        post_training: PostTraining | None = None,
    ) -> None:
        """Read the statistics from the processor.

        Args:
            model: the remote code's model.
            processor: its processor; ``decode_action`` must be scale and mean, per time index and dimension.
            robot_type: the robot type whose statistics apply.
            mask: (1, T, 32), 1 in the dimensions that the robot uses; in the model's dtype.
            max_guidance: the largest weight of the guidance (β).
            post_training: the settings of the authors' post-training code, or None for weights of the released kind.
        """
        self._model, self._max_guidance, self._post_training = model, max_guidance, post_training
        self._mask, self._dtype = mask.float(), mask.dtype
        self._mean = processor.decode_action(self._mask * 0, robot_type=robot_type)
        scaled = processor.decode_action(self._mask * 0 + _LARGE, robot_type=robot_type)
        self._std = (scaled - self._mean) / _LARGE
        supported: dict[PrefixKind, bool] = {
            "prefix": post_training is not None and post_training.async_train,
            "rtc": callable(getattr(model, "dit_forward", None)),
        }
        self.kinds: tuple[PrefixKind, ...] = tuple(kind for kind, yes in supported.items() if yes)

    def normalize(self, prefix: Prefix | None) -> NormalizedPrefix | None:
        """Normalise a prefix with decoded actions (K, 32) by the statistics of the new chunk's time indices.

        Raises:
            PolicyProblem: the model does not support this kind of prefix.
        """
        if prefix is None or not len(prefix.actions):
            return None
        if prefix.kind not in self.kinds:
            supported = ", ".join(self.kinds) or "none"
            raise PolicyProblem(f"the model cannot continue a prefix of kind {prefix.kind} (supported: {supported})")
        import torch

        actions = torch.zeros_like(self._mask)
        length = min(len(prefix.actions), actions.shape[1])
        actions[0, :length] = torch.from_numpy(np.array(prefix.actions[:length], np.float32))
        normalised = torch.where(self._mask.bool(), (actions - self._mean) / self._std, 0.0)
        normalised[:, length:] = 0.0
        return NormalizedPrefix(prefix.kind, min(prefix.committed, length), length, normalised)

    @contextmanager
    def applied(self, rows: Sequence[NormalizedPrefix | None]) -> Iterator[Callable[[Any], Any]]:
        """Continue the prefixes of a pass's rows within the context, which yields a function.

        The function takes the pass's actions (B, T, 32) and returns them with the prefixes of kind ``prefix`` in place.
        """
        import torch

        empty = torch.zeros_like(self._mask)
        with ExitStack() as stack:
            finish: Callable[[Any], Any] = _unchanged
            if self._post_training is not None:
                kept = [row if row is not None and row.kind == "prefix" else None for row in rows]
                lengths = torch.tensor([row.committed if row else 0 for row in kept], device=empty.device)
                held = (torch.arange(empty.shape[1], device=empty.device) < lengths[:, None])[..., None]
                prefix = torch.cat([row.actions if row else empty for row in kept]).to(self._dtype)
                stack.enter_context(post_trained(self._model, self._post_training.local_window, held, prefix))

                def finish(actions: Any) -> Any:
                    return torch.where(held, prefix, actions)

            followed = [row if row is not None and row.kind == "rtc" else None for row in rows]
            if any(followed):
                size = empty.shape[1]
                weights = [soft_mask(row.committed, row.length, size) if row else np.zeros(size) for row in followed]
                weight = torch.from_numpy(np.stack(weights)).to(empty)[..., None] * self._mask
                target = torch.cat([row.actions if row else empty for row in followed])
                stack.enter_context(guided(self._model, target, weight, self._max_guidance))
            yield finish


def _unchanged(actions: Any) -> Any:
    return actions
