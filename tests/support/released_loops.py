"""Runs in a suite's own environment: the authors' evaluation loops, with the transport to their server replaced.

Their files are loaded from the checkout as they are. Only imports that the loops do not need here are stood in for
(command lines, videos, tables of results), and torch by an array with its few methods. Instead of asking a server, the
client keeps every request and answers with actions that depend on the request's seed alone.

Standard input: a pickle of a question. Standard output: a pickle of one entry per episode: the requests, the verdict,
and the number of control steps.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import itertools
import logging
import os
import pickle
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

REACH = {"libero": [1.1] * 6, "calvin": [1.1] * 6, "simpler": [0.06] * 3 + [0.12] * 3}
STEPS = {"libero": 10, "calvin": 10, "simpler": 4}
WAITING = 10  # of upstream's steps in LIBERO, those before the first request


def drawn(suite: str, seed: int) -> np.ndarray:
    """Return a chunk (T, 32) float32 as a model would decode it; a few actions are out of bounds."""
    values = np.random.default_rng(seed).uniform(-1, 1, (STEPS[suite], 32)).astype(np.float32)
    values[:, :6] *= np.float32(REACH[suite])
    if suite == "simpler" and seed % 8 == 0:
        values[0, 3] = 2.5  # more than a quarter turn at once
    return values


class Tensor(np.ndarray):
    """What the loops call of a tensor."""

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.view(np.ndarray)


class Client:
    """The client of the authors' server, without the server."""

    def __init__(self, suite: str, answers: Mapping[int, np.ndarray] | None) -> None:
        self._suite, self._answers = suite, answers
        self.requests: list[dict[str, Any]] = []

    def __call__(self, **fields: Any) -> Tensor:
        self.requests.append(described(fields))
        seed = fields["seed"]
        chunk = drawn(self._suite, seed) if self._answers is None else self._answers[seed]
        return np.array(chunk)[None].view(Tensor)


def described(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a request as it can be compared: its text, its seed, and the bytes of its state and images."""
    state = fields["state"]
    views = [fields[name] for name in ("base", "wrist_left") if name in fields]
    return {
        "robot": fields["task_id"],
        "text": fields["language"],
        "seed": fields["seed"],
        "state": (str(state.dtype), state.size, state.tobytes()),
        "images": [(view.mode, view.size, hashlib.sha256(view.tobytes()).hexdigest()) for view in views],
    }


def stand_in(name: str, **content: Any) -> types.ModuleType:
    """Put a module of this content where imports find it, with its parents."""
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            stand_in(parent, __path__=[])
        setattr(sys.modules[parent], last, module)
    return module


def released(checkout: Path, name: str) -> Any:
    """Load ``eval_NAME/main.py`` of the authors' checkout."""

    def crop(image: Any, top: int, left: int, height: int, width: int) -> Any:
        return image.crop((left, top, left + width, top + height))

    def resize(image: Any, size: tuple[int, int]) -> Any:
        return image.resize(size[::-1], 2)  # torchvision's default, bilinear; for PIL images it calls PIL

    def pad(array: np.ndarray, widths: tuple[int, int]) -> Tensor:
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [widths]).view(Tensor)

    def absent(*_: Any, **__: Any) -> None:
        raise AssertionError("the loop called a function that is stood in for")

    stand_in("tyro", cli=absent)
    stand_in("pandas")
    stand_in("imageio", mimwrite=lambda *_, **__: None, get_writer=absent)
    stand_in("moviepy.editor", ImageSequenceClip=absent)
    stand_in("pytorch_lightning", seed_everything=absent)
    stand_in("termcolor", colored=absent)
    stand_in("torch", Tensor=Tensor, from_numpy=lambda array: array.view(Tensor))
    stand_in("torch.nn.functional", pad=pad)
    stand_in("torch.nn.parallel", DistributedDataParallel=None)
    stand_in("torchvision.transforms.functional", crop=crop, resize=resize)
    stand_in("deploy.client", Client=Client)
    path = checkout / f"eval_{name}" / "main.py"
    spec = importlib.util.spec_from_file_location(f"released_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look their module up
    spec.loader.exec_module(module)
    return module


def counted(environment: Any, after: Callable[[Any], None] = lambda _: None) -> Any:
    """Count the steps of an environment in its attribute ``steps``; ``after`` is called with each observation."""
    step = environment.step
    environment.steps = 0

    def counting(action: Any) -> Any:
        environment.steps += 1
        result = step(action)
        after(result[0])
        return result

    environment.step = counting
    return environment


def libero(question: dict[str, Any], client: Client) -> list[dict[str, Any]]:
    """``run_trial`` of ``eval_libero/main.py``."""
    import suite.upstream as package  # type: ignore[import-not-found]

    package.prepare(question["assets"], renders=True)
    main = released(question["checkout"], "libero")
    read = package.initial_states  # without torch; the file is the package's
    sys.modules["torch"].__dict__["load"] = lambda path, **_: read(Path(path).parent.name, Path(path).stem)
    failures: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: failures.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    built = main._get_libero_env
    made: list[Any] = []

    def environment(*arguments: Any) -> Any:
        env, description = built(*arguments)
        made.append(counted(env))
        return env, description

    main._get_libero_env = environment
    nothing, found = contextlib.nullcontext(), []
    args = main.Args(video_out_path=tempfile.mkdtemp())
    for episode in question["episodes"]:
        split = question["suite"]["splits"][episode["split"]]
        main.task_suite = main.benchmark.get_benchmark_dict()[split["upstream"]]()
        index = [main.task_suite.get_task(i).name for i in range(main.task_suite.n_tasks)].index(episode["task"])
        states = main.task_suite.get_task_init_states(index)
        trial = (index, episode["scene"], states, main.task_suite.get_task(index).language, split["max_steps"])
        totals = {"total_episodes": 0, "total_successes": 0}
        client.requests = []
        success = main.run_trial(trial, totals, nothing, nothing, args, client)
        if failures:
            raise RuntimeError(failures[0])
        found.append({"requests": client.requests, "success": bool(success), "steps": made[-1].steps - WAITING})
    return found


def calvin(question: dict[str, Any], client: Client) -> list[dict[str, Any]]:
    """``evaluate_sequence`` of ``eval_calvin/main.py``, of one sequence: a process has one physics client."""
    import hydra
    from omegaconf import OmegaConf

    calvin, calvin_env = (Path(question["sources"][name]) for name in ("calvin", "calvin_env"))
    sys.path.insert(0, str(calvin_env))
    given = {"np": np, "pi": np.pi, "contextlib": contextlib, "hasher": fnv, "Counter": Counter}
    helpers = calvin / "calvin_models" / "calvin_agent" / "evaluation" / "utils.py"
    functions(helpers, given, "temp_seed", "get_env_state_for_initial_condition", "count_success")
    utilities = {name: given[name] for name in ("get_env_state_for_initial_condition", "count_success")}
    stand_in("calvin_agent.evaluation.utils", **utilities)
    main = released(question["checkout"], "calvin")
    (episode,) = question["episodes"]
    config = question["checkout"] / "eval_calvin" / "config"
    limit = question["suite"]["adapter"]["subtask_steps"]
    main.args = main.Args(split={"abc_d": "abc", "abcd_d": "abcd"}[episode["split"]])
    assert (36, STEPS["calvin"]) == (main.args.EP_LEN, main.args.ACT_CHUNK)
    main.args.EP_LEN = limit // STEPS["calvin"]
    main.logger = main.get_logger("released")
    made: list[Any] = []

    def environment(_: str) -> Any:
        with hydra.initialize_config_dir(str(calvin_env / "conf"), version_base=None):
            job = ["hydra/job_logging=default", "hydra/hydra_logging=default"]
            composed = hydra.compose("config_data_collection", ["cameras=static_and_gripper", *job])
        composed.env.use_egl = True
        env = hydra.utils.instantiate(composed.env, show_gui=False, use_vr=False, use_scene_info=True)
        made.append(counted(env))
        return env

    main.make_env = environment
    checks = hydra.utils.instantiate(OmegaConf.load(config / "new_playtable_tasks.yaml"))
    words = OmegaConf.load(config / "new_playtable_validation.yaml")
    condition, tasks = episode["chain"]
    lock, results = contextlib.nullcontext(), []
    solved = main.evaluate_sequence(client, checks, condition, tasks, words, False, "", lock, lock, results, "", 0)
    return [{"requests": client.requests, "success": solved, "steps": made[-1].steps}]


def simpler(question: dict[str, Any], client: Client) -> list[dict[str, Any]]:
    """``run_single_episode`` of ``eval_simplerenv/main.py``, on the entries of its own list of episodes."""
    import json

    import suite.assets as assets  # type: ignore[import-not-found]
    import suite.cooking as cooking  # type: ignore[import-not-found]
    import suite.grid as grid  # type: ignore[import-not-found]
    import suite.upstream as package
    import suite.vulkan as vulkan  # type: ignore[import-not-found]

    from evalkit.adapter import Setup

    setup = Setup(question["suite"], sources=question["sources"])
    package.prepare(setup)
    shader = setup.settings["cpu_shader"] if vulkan.on_cpu(vulkan.prepare()) else "rt"
    main = released(question["checkout"], "simplerenv")
    built = main.build_maniskill2_env
    made: list[Any] = []

    def environment(**wanted: Any) -> Any:
        photograph = wanted["rgb_overlay_path"].rpartition("ManiSkill2_real2sim/")[2]
        wanted["rgb_overlay_path"] = str(Path(question["sources"]["ManiSkill2_real2sim"]) / photograph)
        if wanted.get("shader_dir") == "rt":
            wanted["shader_dir"] = shader
        env = built(**wanted)
        reset = env.reset

        def fork(seen: dict[str, Any]) -> None:
            seen["agent"]["eef_pos"] = fork_eef(env)

        def resetting(**options: Any) -> Any:
            seen, info = reset(**options)
            fork(seen)
            return seen, info

        env.reset = resetting
        made.append(counted(env, fork))
        return env

    main.build_maniskill2_env = environment
    found = []
    for episode in question["episodes"]:
        robot, prefix = {
            "google_vm": ("fractal", "visual_matching"),
            "google_va": ("fractal", "variant_aggregation"),
            "widowx": ("bridge", "bridge"),
        }[episode["split"]]
        options = json.loads((question["checkout"] / f"eval_simplerenv/env_options/{robot}.json").read_text())
        name = f"{prefix}/{episode['task']}"
        entry = [option for option in options if option["task_suite_name"] == name][episode["scene"]]
        scene = grid.scene_of(setup, episode["split"], episode["task"], episode["scene"])
        cooking.cook(assets.needed(setup, scene).stages)
        wanted = entry["env_kwargs"]
        limit = question["suite"]["splits"][episode["split"]]["max_steps"]
        wanted["max_episode_steps"] = min(int(wanted["max_episode_steps"]), limit)
        client.requests = []
        args = main.Args(dataset_name=robot)
        success = main.run_single_episode(0, name, args, wanted, entry["env_reset_options"], client)
        found.append({"requests": client.requests, "success": bool(success), "steps": made[-1].steps})
        made[-1].close()
    return found


def fork_eef(env: Any) -> np.ndarray:
    """Return ``obs["agent"]["eef_pos"]`` of the authors' SimplerEnv, which upstream's lacks."""
    from transforms3d.quaternions import mat2quat

    agent = env.unwrapped.agent
    hand = next(link for link in agent.robot.get_links() if link.name == agent.config.ee_link_name)
    in_base = np.linalg.inv(agent.base_pose.to_transformation_matrix()) @ hand.get_pose().to_transformation_matrix()
    width = 1 - agent.get_gripper_closedness()
    return np.concatenate([in_base[:3, 3], mat2quat(in_base[:3, :3]), [width]])


def functions(path: Path, scope: dict[str, Any], *names: str) -> None:
    """Define a module's functions of these names in ``scope``."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    exec(compile(tree, str(path), "exec"), scope)


def fnv(text: str) -> int:
    value = 0
    for unit in itertools.chain.from_iterable((ord(c) & 0xFF, ord(c) >> 8) for c in text):
        value = (value * 16777619) % 2**32 ^ unit
    return value


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = pickle.load(sys.stdin.buffer)
    sys.path += [question["package"], question["site_packages"]]  # the last for Pillow, where the suite has none
    package = types.ModuleType("suite")
    package.__path__ = [question["folder"]]
    sys.modules["suite"] = package
    name = question["suite"]["name"]
    loops = {"libero": libero, "calvin": calvin, "simpler": simpler}
    found = loops[name](question, Client(name, question["answers"]))
    answers.write(pickle.dumps(found))
    answers.close()
    os._exit(0)  # CALVIN's environment disconnects twice in its destructor


if __name__ == "__main__":
    main()
