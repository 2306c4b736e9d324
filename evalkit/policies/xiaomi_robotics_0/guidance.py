"""Continuation of the running chunk: by an action prefix, if the model takes one, or by guiding the model's flow.

Guidance is real-time chunking at inference time. Source: Black et al., "Real-Time Execution of Action Chunking Flow
Policies" (2025). At flow time t, from 0 (noise) to 1 (action), let x be the noisy chunk and v the model's velocity.
Then x1 = x + (1 - t) v is the predicted chunk. Its weighted distance w from the target chunk Y is pulled back through
the model by a vector-Jacobian product::

    v + min(β, (t² + (1 - t)²) / (t (1 - t))) · (∂x1/∂x)ᵀ w (Y - x1)

A checkpoint's files are not changed: one method of the loaded model is wrapped during a pass. Every pass checks these
assumptions about the model's code. Its ``forward`` takes Euler steps from t = 0 upwards. Each step calls
``self.dit_forward(noisy_action=, t=, ...)``, by these names, with noisy_action (B, T, 32) and one t per row. The call
returns a velocity (B, T, 32) that autograd can differentiate. The independence of the rows is assumed, not checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evalkit.errors import PolicyProblem
from evalkit.execution import Prefix

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
        kinds: the supported kinds of prefix: ``prefix`` if its configuration says that it was trained with one
            (``action_prefix``), ``rtc`` if its flow can be guided.
    """

    def __init__(self, model: Any, processor: Any, robot_type: str, mask: Any, max_guidance: float) -> None:
        """Read the statistics from the processor.

        Args:
            model: the remote code's model.
            processor: its processor; ``decode_action`` must be scale and mean, per time index and dimension.
            robot_type: the robot type whose statistics apply.
            mask: (1, T, 32), 1 in the dimensions that the robot uses.
            max_guidance: the largest weight of the guidance (β).
        """
        self._model, self._max_guidance = model, max_guidance
        self._mask = mask.float()
        self._mean = processor.decode_action(self._mask * 0, robot_type=robot_type)
        scaled = processor.decode_action(self._mask * 0 + _LARGE, robot_type=robot_type)
        self._std = (scaled - self._mean) / _LARGE
        supported: dict[PrefixKind, bool] = {
            "prefix": bool(getattr(model.config, "action_prefix", False)),
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

    def arguments(self, rows: Sequence[NormalizedPrefix | None]) -> dict[str, Any]:
        """Return the arguments of ``forward`` for prefixes of kind ``prefix``; those of other rows have length 0."""
        import torch

        prefixes = [row if row is not None and row.kind == "prefix" else None for row in rows]
        if not any(prefixes):
            return {}
        empty = torch.zeros_like(self._mask)
        lengths = [row.committed if row else 0 for row in prefixes]
        return {
            "action_prefix": torch.cat([row.actions if row else empty for row in prefixes]),
            "prefix_length": torch.tensor(lengths, device=self._mask.device),
        }

    def guidance(self, rows: Sequence[NormalizedPrefix | None]) -> AbstractContextManager[None]:
        """Return a context in which the flow of rows with a prefix of kind ``rtc`` is guided."""
        import torch

        guided = [row if row is not None and row.kind == "rtc" else None for row in rows]
        if not any(guided):
            return nullcontext()
        empty = torch.zeros_like(self._mask)
        size = empty.shape[1]
        weights = np.stack([soft_mask(row.committed, row.length, size) if row else np.zeros(size) for row in guided])
        weight = torch.from_numpy(weights).to(empty)[..., None] * self._mask
        target = torch.cat([row.actions if row else empty for row in guided])
        return _guided(self._model, target, weight, self._max_guidance)


def soft_mask(committed: int, length: int, chunk_size: int) -> np.ndarray:
    """Return the weight of the running chunk for each action of the new one: (chunk_size,) float64.

    1 for i < committed, 0 from ``length`` = H - s on, and c (exp(c) - 1) / (e - 1) between, with c falling linearly.
    If no action is committed, the first weight is a little less than 1, as in the authors' code.
    """
    falling = np.clip((length - np.arange(chunk_size)) / (length - committed + 1), 0.0, 1.0)
    weights: np.ndarray = falling * np.expm1(falling) / (np.e - 1)
    return weights


@contextmanager
def _guided(model: Any, target: Any, weight: Any, max_guidance: float) -> Iterator[None]:
    """Wrap ``dit_forward`` on the instance and disable the parameters' gradients, both only within the context."""
    step, times = model.dit_forward, []

    def dit_forward(*unnamed: Any, **arguments: Any) -> Any:
        if unnamed or not {"noisy_action", "t"} <= arguments.keys():
            raise PolicyProblem(
                "the model's code does not call dit_forward(noisy_action=, t=, ...): it cannot be guided"
            )
        times.append(arguments["t"])
        return _guided_velocity(step, arguments, target, weight, max_guidance)

    own_method = vars(model).get("dit_forward")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as stack:
        for parameter in trainable:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        stack.callback(_restore_method, model, own_method)
        model.dit_forward = dit_forward
        yield
    _check_times([float(t.min()) for t in times])


def _restore_method(model: Any, own_method: Any) -> None:
    if own_method is None:
        del model.dit_forward
    else:
        model.dit_forward = own_method


def _check_times(times: list[float]) -> None:
    if not times:
        raise PolicyProblem("the model's code does not call its dit_forward: it cannot be guided")
    if times[0] != 0 or sorted(set(times)) != times or times[-1] >= 1:
        seen = ", ".join(f"{t:g}" for t in times)
        raise PolicyProblem(f"the model's flow is not at times from 0 up to 1 but at {seen}: it cannot be guided")


def _guided_velocity(step: Any, arguments: dict[str, Any], target: Any, weight: Any, max_guidance: float) -> Any:
    """Return the velocity of one flow step, guided towards ``target``: in the model's dtype, summed in float32."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # no other attention has a gradient for which torch guarantees the same bits every time on a GPU
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        noisy = arguments["noisy_action"].detach().requires_grad_(True)
        velocity = step(**{**arguments, "noisy_action": noisy})
        if not velocity.requires_grad:
            raise PolicyProblem("the model's dit_forward gives no gradient: it cannot be guided")
        t = arguments["t"].float().view(-1, 1, 1)
        predicted = noisy.float() + (1 - t) * velocity.float()
        (pull,) = torch.autograd.grad(predicted, noisy, weight * (target - predicted.detach()))
    scale = ((t**2 + (1 - t) ** 2) / (t * (1 - t))).clamp(max=max_guidance)
    return (velocity.detach().float() + scale * pull.float()).to(velocity.dtype)
