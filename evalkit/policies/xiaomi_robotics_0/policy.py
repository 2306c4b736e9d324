"""evalkit's policy interface for the released checkpoints."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field, model_validator

from evalkit.errors import PolicyProblem, UsageError, unknown
from evalkit.observation import Observation
from evalkit.policies.checkpoint import HubParameters
from evalkit.policies.weights import locate
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import Attention, Dtype, load, missing_libraries
from evalkit.policies.xiaomi_robotics_0.post_training import PostTraining
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, RobotPreset, presets
from evalkit.policy import Request, Spec
from evalkit.suite import Suite

_INVARIANT_BATCH = 8  # rows of a batch-invariant pass, by default


class Parameters(HubParameters):
    """Parameters of a checkpoint of this family, in ``checkpoints.yaml`` or on the command line."""

    robot_type: str | None = Field(None, description="the model's name for the robot; by default from the suite")
    preset: str | None = Field(None, description="the preset for requests and actions; by default from the robot type")
    chunk: int | None = Field(None, ge=1, description="the expected chunk length, checked against the model")
    attention: Attention = Field("auto", description="auto selects the first of flash, sdpa, eager that works")
    dtype: Dtype = Field("auto", description="auto is bfloat16, as released")
    device: str = Field("auto", description="auto is the GPU if there is one, else the CPU")
    max_batch: int = Field(1, ge=1, le=1024, description="largest number of requests in one pass; 1 is as released")
    batch_invariant: bool = Field(False, description="pad every pass to one shape, so that chunks are independent")
    max_guidance: float = Field(5.0, gt=0, le=1000, description="rtc: largest weight of the guidance")
    async_train: bool | None = Field(
        None, description="the post-training code trained the weights with prefixes; by default as config.json says"
    )
    local_window: int | None = Field(
        None, ge=0, description="the attention window of post-trained weights; by default as config.json says"
    )

    @classmethod
    def missing_libraries(cls) -> str | None:
        """See :meth:`evalkit.policies.checkpoint.HubParameters.missing_libraries`."""
        return missing_libraries()

    @model_validator(mode="before")
    @classmethod
    def _default_invariant_batch(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("batch_invariant") and "max_batch" not in values:
            return {**values, "max_batch": _INVARIANT_BATCH}
        return values


class XiaomiRobotics0:
    """A checkpoint of Xiaomi-Robotics-0, or one fine-tuned from it, with its own code and processor."""

    def __init__(self, suite: Suite, parameters: Parameters) -> None:
        """Load the checkpoint.

        Raises:
            UsageError: the source, its commit, the robot type or the preset does not exist or does not apply.
            EnvironmentProblem: libraries, weights or the device are missing on this machine.
            PolicyProblem: weights, code or processor cannot be loaded.
        """
        files = locate(
            parameters.source,
            parameters.revision,
            parameters.trust_remote_code,
            code_sha256=parameters.code_sha256,
        )
        preset = _find_preset(suite, parameters)
        loaded = load(files, parameters.attention, parameters.dtype, parameters.device)
        self._preset = preset
        self._robot_type = _find_robot_type(preset, parameters, loaded.processor.list_robot_types())
        post_training = PostTraining.find(loaded.model.config, parameters.async_train, parameters.local_window)
        self._inference = Inference(
            loaded,
            self._robot_type,
            parameters.max_batch,
            parameters.batch_invariant,
            parameters.max_guidance,
            post_training,
        )
        if parameters.chunk not in (None, self._inference.chunk_size):
            raise PolicyProblem(
                f"robot type {self._robot_type!r} has chunks of {self._inference.chunk_size}, not of {parameters.chunk}"
            )
        if parameters.batch_invariant:
            self._inference.check_invariance(self._examples(suite))
        self.spec = Spec(
            observation_spec=preset.observation_spec,
            chunk_size=self._inference.chunk_size,
            metadata={
                **files.identity,
                **loaded.metadata,
                "robot_type": self._robot_type,
                "preset": preset.name,
                "batch": {"max_batch": parameters.max_batch, "fixed_shapes": parameters.batch_invariant},
                **({"post_training": post_training.to_dict()} if post_training else {}),
            },
            batch_invariant=parameters.batch_invariant or parameters.max_batch == 1,
            supported_prefixes=self._inference.supported_prefixes,
        )

    def _examples(self, suite: Suite) -> list[ModelRequest]:
        """Return two requests for this suite's observations, made of noise; their prompts differ by a word."""
        rng = np.random.default_rng(0)
        sizes = {name: (camera.height, camera.width, 3) for name, camera in suite.cameras.items()}
        shapes = {name: vector.size for name, vector in suite.state.items()}
        examples = []
        for instruction in ("pick it up", "pick it up now"):
            images = {
                name: rng.integers(0, 256, sizes[name], np.uint8) for name in self._preset.observation_spec.cameras
            }
            state = {name: rng.uniform(0, 1, shapes[name]) for name in self._preset.observation_spec.state}
            observation = Observation(instruction, images, state)
            examples.append(self._preset.build_request(observation, self._robot_type))
        return examples

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return (T, A) per request, in the suite's action space and its dtype."""
        chunks = self._inference.chunks([self._model_request(request) for request in requests])
        return [self._preset.to_suite_actions(chunk) for chunk in chunks]

    def _model_request(self, request: Request) -> ModelRequest:
        model_request = self._preset.build_request(request.observation, self._robot_type)
        if request.prefix is None:
            return model_request
        actions = self._preset.to_model_actions(request.prefix.actions)
        return replace(model_request, prefix=replace(request.prefix, actions=actions))

    def warnings(self) -> list[str]:
        """Return one line for each event since the last call (:class:`evalkit.policy.PolicyWarnings`)."""
        warnings, self._inference.warnings = self._inference.warnings, []
        return warnings

    def close(self) -> None:
        """Release the model and the GPU's memory."""
        del self._inference
        gc.collect()


def _find_preset(suite: Suite, parameters: Parameters) -> RobotPreset:
    """Return the preset for this suite and robot. Raises UsageError that names the choices."""
    known = presets()
    if parameters.preset is not None:
        if parameters.preset not in known:
            raise unknown("preset", parameters.preset, known)
        return known[parameters.preset]
    candidates = [p for p in known.values() if suite.name in p.suites]
    if parameters.robot_type is not None:
        matches = [p for p in known.values() if parameters.robot_type in p.robot_types]
        if matches and matches[0] not in candidates:
            raise UsageError(
                f"robot type {parameters.robot_type!r} is for {matches[0].suites[0]}, not for {suite.name}"
            )
        candidates = matches or candidates
    if len(candidates) != 1:
        choices = [p.robot_types[0] for p in candidates]
        raise UsageError(
            f"set the robot: robot_type={' or '.join(choices)}"
            if choices
            else f"there is no preset for {suite.name}; use another with preset=NAME ({', '.join(known)})"
        )
    return candidates[0]


def _find_robot_type(preset: RobotPreset, parameters: Parameters, known: Sequence[str]) -> str:
    """Return the processor's name of the robot. Raises UsageError that names those that it knows."""
    if parameters.robot_type is not None:
        if parameters.robot_type not in known:
            raise UsageError(
                f"robot_type {parameters.robot_type!r}: this checkpoint knows {', '.join(known) or 'none'}"
            )
        return parameters.robot_type
    matches = [name for name in preset.robot_types if name in known]
    if len(matches) != 1:
        raise UsageError(
            f"robot_type: the preset {preset.name} needs {' or '.join(preset.robot_types)}, and this checkpoint "
            f"knows {', '.join(known) or 'none'}: set robot_type=NAME"
        )
    return matches[0]
