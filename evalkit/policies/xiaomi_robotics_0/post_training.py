"""Passes of weights from the authors' post-training code (``xr0``), with the model class of the released checkpoints.

Both have the same parameters, but their action heads see different things. Source: evaluation mode of ``XR0.forward``
in ``xr0/mibot/models/VLA/XR0.py`` of https://github.com/XiaomiRobotics/Xiaomi-Robotics-0, with p actions of a prefix:

- The first p actions of the noisy chunk are the prefix's in every step, without noise, at the whole chunk's flow time.
- The positions of all actions after the prefix are shifted by 10, so of all actions if there is no prefix.
- An action sees itself and the ``local_window`` actions before it, besides state, sink and prompt (Λ-shaped mask).

In training, every other example has a prefix of 1 to 6 actions, some of which are hidden from the actions after it.
Evaluation hides nothing.

A checkpoint's files are not changed: one method and one module of the loaded model are wrapped during a pass. Its
``forward`` must call ``self.rotary_emb(x, position_ids)`` once and ``self.dit_forward(noisy_action=, attn_mask=, ...)``
in every step, as the released code does. A pass checks that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.errors import PolicyProblem

POSITION_SHIFT = 10
LOCAL_WINDOW = 4  # the post-training code's default
LONGEST_PREFIX = 6  # actions, in training


@dataclass(frozen=True)
class PostTraining:
    """The settings of a post-training that a pass depends on, by their names in its configuration.

    Attributes:
        local_window: number of earlier actions that an action sees.
        async_train: True if the weights were trained with prefixes.
    """

    local_window: int
    async_train: bool

    @classmethod
    def find(cls, config: Any, async_train: bool | None, local_window: int | None) -> PostTraining | None:
        """Return the settings of a checkpoint, or None for one of the released kind.

        Args:
            config: the model's configuration, which may have ``async_train`` and ``local_window``.
            async_train: replaces the configuration's value if not None.
            local_window: replaces the configuration's value if not None.

        Raises:
            PolicyProblem: the configuration has values of another kind.
        """
        known = {"async_train": async_train, "local_window": local_window}
        found = {name: getattr(config, name, None) if value is None else value for name, value in known.items()}
        trained, window = found["async_train"] or False, found["local_window"]
        if not isinstance(trained, bool):
            raise PolicyProblem(f"config.json: async_train must be true or false, not {trained!r}")
        if window is not None and (type(window) is not int or window < 0):
            raise PolicyProblem(f"config.json: local_window must be a number of actions, not {window!r}")
        if window is None and not trained:
            return None
        return cls(LOCAL_WINDOW if window is None else window, trained)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, for the manifest."""
        return {**asdict(self), "position_shift": POSITION_SHIFT}


@contextmanager
def post_trained(model: Any, local_window: int, held: Any, prefix: Any) -> Iterator[None]:
    """Run passes of ``model`` as the post-training code does, within the context.

    Args:
        model: the remote code's model; its own attributes are restored at the end.
        local_window: number of earlier actions that an action sees.
        held: (B, T, 1) bool, True for the actions of a row's prefix.
        prefix: (B, T, 32) normalised actions in the model's dtype, of which the held ones are used. The caller puts
            them into the result, where the flow moves them.

    Raises:
        PolicyProblem: the model's code does not make the calls that are wrapped.
    """
    import torch

    step, own_method = model.dit_forward, vars(model).get("dit_forward")
    called = {"rotary_emb": 0, "dit_forward": 0}

    def shifted(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        called["rotary_emb"] += 1
        _require(len(arguments) == 2, "does not call rotary_emb(x, position_ids)")
        x, positions = arguments
        later = torch.nn.functional.pad(~held[..., 0], (positions.shape[-1] - held.shape[1], 0))
        return x, positions + POSITION_SHIFT * later

    def dit_forward(*unnamed: Any, **arguments: Any) -> Any:
        called["dit_forward"] += 1
        named = not unnamed and {"noisy_action", "attn_mask"} <= arguments.keys()
        _require(named, "does not call dit_forward(noisy_action=, attn_mask=, ...)")
        mask, noisy = arguments["attn_mask"], arguments["noisy_action"]
        visible = _local(mask.shape[-2], mask.shape[-1], held.shape[1], local_window, mask.device)
        return step(**{**arguments, "noisy_action": torch.where(held, prefix, noisy), "attn_mask": mask & visible})

    _require(isinstance(getattr(model, "rotary_emb", None), torch.nn.Module), "has no rotary_emb")
    hook = model.rotary_emb.register_forward_pre_hook(shifted)
    model.dit_forward = dit_forward
    try:
        yield
    finally:
        hook.remove()
        restore_method(model, own_method)
    for name, times in called.items():
        _require(times > 0, f"does not call its {name}")


def restore_method(model: Any, own_method: Any) -> None:
    """Restore ``dit_forward`` on the instance: the attribute that it had before, or none if that is None."""
    if own_method is None:
        del model.dit_forward
    else:
        model.dit_forward = own_method


def _local(queries: int, keys: int, actions: int, window: int, device: Any) -> Any:
    """Return (queries, keys) bool: False where an action looks further back among the actions than ``window``."""
    import torch

    visible = torch.ones((queries, keys), dtype=torch.bool, device=device)
    visible[-actions:, -actions:] = visible[-actions:, -actions:].triu(diagonal=-window)
    return visible


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise PolicyProblem(f"the model's code {reason}: it cannot run as post-trained (async_train, local_window)")
