"""The released checkpoints behind evalkit's policy interface."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field, model_validator

from evalkit.errors import EnvironmentProblem, PolicyProblem, UsageError, unknown
from evalkit.observation import Observation
from evalkit.policies.checkpoint import NamedParameters
from evalkit.policies.weights import CheckpointFiles, locate
from evalkit.policies.xiaomi_robotics_0.inference import Inference
from evalkit.policies.xiaomi_robotics_0.loading import Attention, Dtype, load, missing_libraries
from evalkit.policies.xiaomi_robotics_0.requests import ModelRequest, RobotPreset, settings
from evalkit.policy import Request, Spec
from evalkit.suite import Suite

_BATCH = 8  # rows of a batch-invariant pass where nothing else is asked for


class Parameters(NamedParameters):
    """What can be set for a checkpoint of this family, in ``checkpoints.yaml`` or where one is named."""

    source: str = Field(exclude=True, description="a directory, or a repository on the Hugging Face hub")
    revision: str | None = Field(None, description="the full commit of that repository")
    trust_remote_code: bool = Field(False, description="whether the code that comes with the weights may run")
    robot_type: str | None = Field(None, description="the model's name for the robot; from the suite where absent")
    setting: str | None = Field(
        None, description="the rules for requests and actions; from the robot type where absent"
    )
    chunk: int | None = Field(None, ge=1, description="the chunk length that the checkpoint must turn out to have")
    attention: Attention = Field("auto", description="auto takes the first of flash, sdpa, eager that works")
    dtype: Dtype = Field("auto", description="auto is bfloat16 on a GPU, as released, and float32 on a CPU")
    device: str = Field("auto", description="auto is the GPU where there is one, else the CPU")
    max_batch: int = Field(1, ge=1, le=1024, description="most requests in one forward pass; 1 is exactly as released")
    batch_invariant: bool = Field(False, description="passes of one shape, so that a chunk depends on no other request")
    max_guidance: float = Field(5.0, gt=0, le=1000, description="rtc: largest weight of the pull to the running chunk")

    @model_validator(mode="before")
    @classmethod
    def _invariant_batches_have_a_size(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("batch_invariant") and "max_batch" not in values:
            return {**values, "max_batch": _BATCH}
        return values


class XiaomiRobotics0:
    """A checkpoint of Xiaomi-Robotics-0, or one fine-tuned from it, with its own code and processor."""

    def __init__(self, suite: Suite, parameters: Parameters) -> None:
        """Loads the checkpoint.

        Raises:
            UsageError: the source, its pin, the robot type or the setting does not exist or does not fit.
            EnvironmentProblem: libraries, weights or the device are missing on this machine.
            PolicyProblem: weights, code or processor cannot be loaded.
        """
        located = _located(parameters)
        chosen = _setting(suite, parameters)
        loaded = load(located, parameters.attention, parameters.dtype, parameters.device)
        self._setting = chosen
        self._robot_type = _robot_type(chosen, parameters, loaded.processor.list_robot_types())
        self._inference = Inference(
            loaded,
            self._robot_type,
            parameters.max_batch,
            parameters.batch_invariant,
            parameters.max_guidance,
        )
        if parameters.chunk not in (None, self._inference.chunk):
            raise PolicyProblem(
                f"robot type {self._robot_type!r} has chunks of {self._inference.chunk}, not of {parameters.chunk}"
            )
        if parameters.batch_invariant:
            self._inference.check_invariance(self._examples(suite))
        self.spec = Spec(
            observation_spec=chosen.observation_spec,
            chunk_size=self._inference.chunk,
            metadata={
                **located.identity,
                **loaded.metadata,
                "robot_type": self._robot_type,
                "setting": chosen.name,
                "batch": {"most": parameters.max_batch, "fixed_shapes": parameters.batch_invariant},
            },
            batch_invariant=parameters.batch_invariant or parameters.max_batch == 1,
            supported_prefixes=self._inference.supported_prefixes,
        )

    def _examples(self, suite: Suite) -> list[ModelRequest]:
        """Requests as this suite makes them, of noise: two that differ in length, by a word."""
        chance = np.random.default_rng(0)
        sizes = {name: (camera.height, camera.width, 3) for name, camera in suite.cameras.items()}
        shapes = {name: vector.size for name, vector in suite.state.items()}
        examples = []
        for instruction in ("pick it up", "pick it up now"):
            images = {
                name: chance.integers(0, 256, sizes[name], np.uint8) for name in self._setting.observation_spec.cameras
            }
            state = {name: chance.uniform(0, 1, shapes[name]) for name in self._setting.observation_spec.state}
            seen = Observation(instruction, images, state)
            examples.append(self._setting.request(seen, self._robot_type))
        return examples

    def act(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """(T, A) float32 per request, in the suite's action space."""
        chunks = self._inference.chunks([self._asked(request) for request in requests])
        return [self._setting.actions(chunk) for chunk in chunks]

    def _asked(self, request: Request) -> ModelRequest:
        asked = self._setting.request(request.observation, self._robot_type)
        if request.prefix is None:
            return asked
        return replace(asked, prefix=replace(request.prefix, actions=self._setting.decoded(request.prefix.actions)))

    def warnings(self) -> list[str]:
        """See :class:`evalkit.policy.Remarks`."""
        said, self._inference.warnings = self._inference.warnings, []
        return said

    def close(self) -> None:
        """Lets go of the model and of the GPU's memory."""
        del self._inference
        gc.collect()


def _located(parameters: Parameters) -> CheckpointFiles:
    """The checkpoint's files; all that is missing on this machine is said at once."""
    libraries = missing_libraries()
    try:
        located = locate(parameters.source, parameters.revision, parameters.trust_remote_code, parameters.display_name)
    except EnvironmentProblem as error:
        raise EnvironmentProblem(f"{libraries}; {error}" if libraries else str(error)) from error
    if libraries:
        raise EnvironmentProblem(libraries)
    return located


def _setting(suite: Suite, parameters: Parameters) -> RobotPreset:
    """The rules for this suite and robot. Raises UsageError with what there is."""
    every = settings()
    if parameters.setting is not None:
        if parameters.setting not in every:
            raise unknown("setting", parameters.setting, every)
        return every[parameters.setting]
    fitting = [s for s in every.values() if suite.name in s.suites]
    if parameters.robot_type is not None:
        named = [s for s in every.values() if parameters.robot_type in s.robot_types]
        if named and named[0] not in fitting:
            raise UsageError(f"robot type {parameters.robot_type!r} is for {named[0].suites[0]}, not for {suite.name}")
        fitting = named or fitting
    if len(fitting) != 1:
        choice = [s.robot_types[0] for s in fitting] or None
        raise UsageError(
            f"say which robot: robot_type={' or '.join(choice)}"
            if choice
            else f"there are no rules for {suite.name}; borrow some with setting=NAME ({', '.join(every)})"
        )
    return fitting[0]


def _robot_type(setting: RobotPreset, parameters: Parameters, known: Sequence[str]) -> str:
    """The name by which the checkpoint's processor knows the robot."""
    if parameters.robot_type is not None:
        if parameters.robot_type not in known:
            raise UsageError(
                f"robot_type {parameters.robot_type!r}: this checkpoint knows {', '.join(known) or 'none'}"
            )
        return parameters.robot_type
    fitting = [name for name in setting.robot_types if name in known]
    if len(fitting) != 1:
        raise UsageError(
            f"robot_type: the rules for {setting.name} take {' or '.join(setting.robot_types)}, and this checkpoint "
            f"knows {', '.join(known) or 'none'}: set robot_type=NAME"
        )
    return fitting[0]
