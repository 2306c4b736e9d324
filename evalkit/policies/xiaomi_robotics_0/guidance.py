"""Chunks that continue the running one: by a prefix that the model takes, or by guiding any model's flow.

Guidance is real-time chunking at inference time. Source: Black et al., "Real-Time Execution of Action Chunking Flow
Policies" (2025). At flow time t, from 0 (noise) to 1 (action), let x be the noisy chunk and v the model's velocity.
Then x1 = x + (1 - t) v is where the flow is heading, and its weighted distance w from the wanted chunk Y is pulled back
through the model by a vector-Jacobian product::

    v + min(β, (t² + (1 - t)²) / (t (1 - t))) · (∂x1/∂x)ᵀ w (Y - x1)

A checkpoint's files stay as they are: one method of the loaded model is wrapped while a pass runs. What is assumed of
the code, the released and any other, and checked in every pass: its ``forward`` takes Euler steps from t = 0 upwards,
each of which calls ``self.dit_forward(noisy_action=, t=, ...)``, by these names, with noisy_action (B, T, 32) and one t
per row, and gets a velocity (B, T, 32) that autograd can follow. That no row looks at another is assumed, not checked.
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

Kind = Literal["prefix", "rtc"]
_LARGE = 2.0**20  # a power of two: the scale of statistics is read off a value beside which the mean does not count


@dataclass(frozen=True)
class Wanted:
    """A prefix as the model sees it.

    Attributes:
        kind: ``prefix`` or ``rtc``.
        committed: how many actions are executed whatever the reply, at most T.
        length: how many actions there are (K), at most T.
        actions: (1, T, 32) float32 tensor, normalised; 0 from K on and in dimensions that the robot does not use.
    """

    kind: Kind
    committed: int
    length: int
    actions: Any


class Continuation:
    """What a loaded model makes of prefixes.

    ``kinds`` are those that it can continue: ``prefix`` where its configuration says that it was trained with one
    (``action_prefix``), ``rtc`` where its flow can be guided.
    """

    def __init__(self, model: Any, processor: Any, robot_type: str, mask: Any, most: float) -> None:
        """Reads the statistics.

        Args:
            model: the remote code's model.
            processor: its processor; ``decode_action`` must be scale and mean, per time index and dimension.
            robot_type: whose statistics count.
            mask: (1, T, 32), 1 where the robot uses a dimension.
            most: the largest weight of the guidance (β).
        """
        self._model, self._most = model, most
        self._used = mask.float()
        self._mean = processor.decode_action(self._used * 0, robot_type=robot_type)
        scaled = processor.decode_action(self._used * 0 + _LARGE, robot_type=robot_type)
        self._std = (scaled - self._mean) / _LARGE
        able: dict[Kind, bool] = {
            "prefix": bool(getattr(model.config, "action_prefix", False)),
            "rtc": callable(getattr(model, "dit_forward", None)),
        }
        self.kinds: tuple[Kind, ...] = tuple(kind for kind, can in able.items() if can)

    def wanted(self, prefix: Prefix | None) -> Wanted | None:
        """A prefix with decoded actions (K, 32), normalised by the statistics of the new chunk's time indices.

        Raises:
            PolicyProblem: the model cannot continue such a one.
        """
        if prefix is None or not len(prefix.actions):
            return None
        if prefix.kind not in self.kinds:
            able = ", ".join(self.kinds) or "none"
            raise PolicyProblem(f"the model cannot continue a prefix of kind {prefix.kind} (it can: {able})")
        import torch

        actions = torch.zeros_like(self._used)
        length = min(len(prefix.actions), actions.shape[1])
        actions[0, :length] = torch.from_numpy(np.array(prefix.actions[:length], np.float32))
        normalised = torch.where(self._used.bool(), (actions - self._mean) / self._std, 0.0)
        normalised[:, length:] = 0.0
        return Wanted(prefix.kind, min(prefix.committed, length), length, normalised)

    def arguments(self, rows: Sequence[Wanted | None]) -> dict[str, Any]:
        """What ``forward`` takes besides, where a row has a prefix of kind ``prefix``; other rows' have length 0."""
        import torch

        held = [row if row is not None and row.kind == "prefix" else None for row in rows]
        if not any(held):
            return {}
        nothing = torch.zeros_like(self._used)
        lengths = [row.committed if row else 0 for row in held]
        return {
            "action_prefix": torch.cat([row.actions if row else nothing for row in held]),
            "prefix_length": torch.tensor(lengths, device=self._used.device),
        }

    def guiding(self, rows: Sequence[Wanted | None]) -> AbstractContextManager[None]:
        """A context in which the model's flow is guided, where a row has a prefix of kind ``rtc``; others are not."""
        import torch

        guided = [row if row is not None and row.kind == "rtc" else None for row in rows]
        if not any(guided):
            return nullcontext()
        nothing = torch.zeros_like(self._used)
        chunk = nothing.shape[1]
        weights = np.stack([soft_mask(row.committed, row.length, chunk) if row else np.zeros(chunk) for row in guided])
        weight = torch.from_numpy(weights).to(nothing)[..., None] * self._used
        return _guided(self._model, torch.cat([row.actions if row else nothing for row in guided]), weight, self._most)


def soft_mask(committed: int, length: int, chunk: int) -> np.ndarray:
    """How much each action of a new chunk is held to the running one: (chunk,) float64.

    1 for i < committed, 0 from ``length`` = H - s on, and c (exp(c) - 1) / (e - 1) between, with c falling linearly.
    With nothing committed the first action is held by a little less than 1, as in the authors' code.
    """
    falling = np.clip((length - np.arange(chunk)) / (length - committed + 1), 0.0, 1.0)
    weights: np.ndarray = falling * np.expm1(falling) / (np.e - 1)
    return weights


@contextmanager
def _guided(model: Any, target: Any, weight: Any, most: float) -> Iterator[None]:
    """Wraps ``dit_forward`` on the instance, and lets no parameter ask for gradients; both only while it lasts."""
    step, times = model.dit_forward, []

    def dit_forward(*unnamed: Any, **arguments: Any) -> Any:
        if unnamed or not {"noisy_action", "t"} <= arguments.keys():
            raise PolicyProblem(
                "the model's code does not call dit_forward(noisy_action=, t=, ...): it cannot be guided"
            )
        times.append(arguments["t"])
        return _pulled(step, arguments, target, weight, most)

    before = vars(model).get("dit_forward")
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with contextlib.ExitStack() as restored:
        for parameter in asking:
            restored.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        restored.callback(_put_back, model, before)
        model.dit_forward = dit_forward
        yield
    _check_times([float(t.min()) for t in times])


def _put_back(model: Any, before: Any) -> None:
    if before is None:
        del model.dit_forward
    else:
        model.dit_forward = before


def _check_times(times: list[float]) -> None:
    if not times:
        raise PolicyProblem("the model's code does not call its dit_forward: it cannot be guided")
    if times[0] != 0 or sorted(set(times)) != times or times[-1] >= 1:
        seen = ", ".join(f"{t:g}" for t in times)
        raise PolicyProblem(f"the model's flow is not at times from 0 up to 1 but at {seen}: it cannot be guided")


def _pulled(step: Any, arguments: dict[str, Any], target: Any, weight: Any, most: float) -> Any:
    """The velocity of one flow step with the pull towards ``target``, in the model's dtype; summed in float32."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # torch promises the same bits every time on a GPU for no other attention's gradient
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        noisy = arguments["noisy_action"].detach().requires_grad_(True)
        velocity = step(**{**arguments, "noisy_action": noisy})
        if not velocity.requires_grad:
            raise PolicyProblem("the model's dit_forward gives no gradient: it cannot be guided")
        t = arguments["t"].float().view(-1, 1, 1)
        heading = noisy.float() + (1 - t) * velocity.float()
        (pull,) = torch.autograd.grad(heading, noisy, weight * (target - heading.detach()))
    share = ((t**2 + (1 - t) ** 2) / (t * (1 - t))).clamp(max=most)
    return (velocity.detach().float() + share * pull.float()).to(velocity.dtype)
