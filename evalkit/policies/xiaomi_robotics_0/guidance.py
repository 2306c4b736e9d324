"""Guidance of the model's flow towards the running chunk: real-time chunking at inference time.

Source: Black et al., "Real-Time Execution of Action Chunking Flow Policies" (2025). At flow time t, from 0 (noise) to 1
(action), let x be the noisy chunk and v the model's velocity. Then x1 = x + (1 - t) v is the predicted chunk. Its
weighted distance w from the target chunk Y is pulled back through the model by a vector-Jacobian product::

    v + min(β, (t² + (1 - t)²) / (t (1 - t))) · (∂x1/∂x)ᵀ w (Y - x1)

A checkpoint's files are not changed: one method of the loaded model is wrapped during a pass. Every pass checks these
assumptions about the model's code. Its ``forward`` takes Euler steps from t = 0 upwards. Each step calls
``self.dit_forward(noisy_action=, t=, ...)``, by these names, with noisy_action (B, T, 32) and one t per row. The call
returns a velocity (B, T, 32) that autograd can differentiate. The independence of the rows is assumed, not checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from evalkit.errors import PolicyProblem
from evalkit.policies.xiaomi_robotics_0.post_training import restore_method


def soft_mask(committed: int, length: int, chunk_size: int) -> np.ndarray:
    """Return the weight of the running chunk for each action of the new one: (chunk_size,) float64.

    1 for i < committed, 0 from ``length`` = H - s on, and c (exp(c) - 1) / (e - 1) between, with c falling linearly.
    If no action is committed, the first weight is a little less than 1, as in the authors' code.
    """
    falling = np.clip((length - np.arange(chunk_size)) / (length - committed + 1), 0.0, 1.0)
    weights: np.ndarray = falling * np.expm1(falling) / (np.e - 1)
    return weights


@contextmanager
def guided(model: Any, target: Any, weight: Any, max_guidance: float) -> Iterator[None]:
    """Guide the flow of ``model`` within the context, with its parameters' gradients disabled.

    Args:
        model: the remote code's model; ``dit_forward`` is wrapped on the instance.
        target: (B, T, 32) normalised actions, the chunk that each row's is guided towards (Y).
        weight: (B, T, 32), the weight of each (w); 0 in rows without guidance.
        max_guidance: the largest weight of the guidance (β).

    Raises:
        PolicyProblem: the model's code does not meet the module's assumptions.
    """
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
        stack.callback(restore_method, model, own_method)
        model.dit_forward = dit_forward
        yield
    _check_times([float(t.min()) for t in times])


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
