"""The choice between pybullet's two renderers: EGL, as in the official evaluation, and the TinyRenderer.

Their images differ clearly, so the choice is part of a run's fingerprint. It depends on the machine's devices, not on a
trial: every worker of a run makes the same choice, and a broken GL is an error instead of other images.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys

from evalkit.adapter import SimulatorError

VARIABLE = "EVALKIT_CALVIN_RENDERER"
ADVICE = f"apt-get install libegl1 libegl-mesa0 libgl1, or {VARIABLE}=tiny for images of pybullet's own renderer"
_PLATFORM_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT
_MOST_DEVICES = 32
_PATIENCE_S = 120
_TRIAL = """
import importlib.util, pybullet
client = pybullet.connect(pybullet.DIRECT)
plugin = pybullet.loadPlugin(importlib.util.find_spec("eglRenderer").origin, "_eglRendererPlugin")
assert plugin >= 0, "pybullet cannot load its EGL renderer"
shape = pybullet.createVisualShape(pybullet.GEOM_BOX, halfExtents=[1, 1, 1], rgbaColor=[1, 0, 0, 1])
pybullet.createMultiBody(baseVisualShapeIndex=shape)
view = pybullet.computeViewMatrix([0, -4, 0], [0, 0, 0], [0, 0, 1])
lens = pybullet.computeProjectionMatrixFOV(60, 1, 0.1, 10)
pixels = pybullet.getCameraImage(16, 16, view, lens)[2]
assert len({tuple(pixel) for row in pixels for pixel in row}) > 1, "EGL draws nothing"
"""


def resolve_renderer() -> str:
    """Return ``"egl"`` or ``"tiny"``: EVALKIT_CALVIN_RENDERER, else EGL if the machine has an EGL device.

    Raises SimulatorError for any other value of the variable.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "egl", "tiny"):
        raise SimulatorError(f"{VARIABLE}={asked}: it must be egl or tiny")
    return asked or ("egl" if _has_egl_device() else "tiny")


def described() -> dict[str, str]:
    """Return the chosen renderer and, for EGL, the GL renderer's name, after a tiny image came out right.

    The trial runs in another process, because a broken EGL may crash it. Raises SimulatorError if EGL is chosen and
    does not work; the message says what to do.
    """
    if resolve_renderer() == "tiny":
        return {"renderer": "tiny"}
    command = [sys.executable, "-I", "-c", _TRIAL]
    try:
        trial = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, text=True, errors="replace", timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise SimulatorError(f"EGL hangs: {ADVICE}") from error
    if trial.returncode:
        said = (trial.stderr.strip().splitlines() or [f"it ended with {trial.returncode}"])[-1]
        raise SimulatorError(f"EGL does not work ({said}): {ADVICE}")
    found = dict(re.findall(r"^(Renderer|Version) *= *(.+?) *$", trial.stdout, re.M))
    return {"renderer": "egl", "name": found.get("Renderer", "unknown"), "version": found.get("Version", "unknown")}


def _has_egl_device() -> bool:
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        query, display = (egl.eglGetProcAddress(n) for n in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    except (OSError, AttributeError):
        return False
    if not query or not display:
        return False
    devices = (ctypes.c_void_p * _MOST_DEVICES)()
    count = ctypes.c_int()
    kind = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int))
    if not kind(query)(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    opening = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display)
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    displays = (opening(_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    return any(shown and egl.eglInitialize(shown, None, None) for shown in displays)
