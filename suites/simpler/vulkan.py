"""Vulkan: its devices, their fitness for SAPIEN, and the packages to install.

SAPIEN needs a Vulkan device even for episodes without images: without one it ends the process while it builds or frees
a scene. So the devices are checked first, through the loader that SAPIEN uses.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evalkit.adapter import SimulatorError

ON_NVIDIA = (
    "on an NVIDIA machine its driver with graphics (in a container NVIDIA_DRIVER_CAPABILITIES=all) and libvulkan1"
)
ON_CPU = (
    "without a GPU Mesa's lavapipe 25 or later: "
    "apt-get install libvulkan1 mesa-vulkan-drivers (Debian 12: -t bookworm-backports)"
)
ADVICE = f"install {ON_NVIDIA}; {ON_CPU}"

REQUIRED = b"VK_KHR_external_semaphore_fd"  # by SAPIEN 2.2.2, for sharing images with CUDA
AVAILABLE = b"VK_KHR_external_semaphore"  # on every Vulkan 1.1 device
_CPU, _SUCCESS = 4, 0  # VkPhysicalDeviceType, VkResult
_PROPERTIES_2, _DRIVER_PROPERTIES, _INSTANCE = 1000059001, 1000196000, 1  # VkStructureType
_VULKAN_1_2 = (1 << 22) | (2 << 12)


@dataclass(frozen=True)
class Device:
    """One Vulkan device.

    Attributes:
        name: the driver's name of it.
        driver: the driver's name and version.
        cpu: True for the processor.
        extensions: names of its extensions.
    """

    name: str
    driver: str
    cpu: bool
    extensions: frozenset[bytes]


class _Application(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    ]


class _Creation(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    ]


class _Driver(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance", ctypes.c_uint8 * 4),
    ]


class _Properties(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("versions_and_ids", ctypes.c_uint32 * 4),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint8 * 2048),  # limits and more, which nothing here reads
    ]


class _Extension(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 256), ("version", ctypes.c_uint32)]


def devices() -> list[Device]:
    """Return the devices that SAPIEN could render with. Raises SimulatorError if there are none."""
    try:
        import sapien.core  # noqa: F401  it also sets VK_ICD_FILENAMES, the list of drivers

        vulkan = ctypes.CDLL("libvulkan.so.1")
    except (ImportError, OSError) as error:
        raise SimulatorError(f"SAPIEN cannot be loaded ({error}): {ADVICE}") from error
    application = _Application(api_version=_VULKAN_1_2)
    creation = _Creation(type=_INSTANCE, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(ctypes.byref(creation), None, ctypes.byref(instance)) != _SUCCESS:
        raise SimulatorError(f"Vulkan has no driver here: {ADVICE}")
    try:
        found = [_describe(vulkan, ctypes.c_void_p(handle)) for handle in _handles(vulkan, instance)]
    finally:
        vulkan.vkDestroyInstance(instance, None)
    if not found:
        raise SimulatorError(f"Vulkan has no device here: {ADVICE}")
    return found


def prepare() -> list[Device]:
    """Prepare this process for SAPIEN's renderer and return the devices.

    SAPIEN requires one extension that it uses for CUDA alone. If the processor is the only device and its driver lacks
    that extension, the extension's name is replaced in this process's copy of the library. Nothing on disk changes.

    Raises:
        SimulatorError: SAPIEN cannot render here; the message says what to install.
    """
    found = devices()
    if on_cpu(found) and not any(REQUIRED in device.extensions for device in found):
        _drop_requirement()
    import sapien.core as sapien

    try:
        sapien.SapienRenderer()  # later renderers share its context
    except RuntimeError as error:
        names = ", ".join(device.name for device in found)
        raise SimulatorError(f"SAPIEN cannot render on {names} ({error}): {ADVICE}") from error
    return found


def on_cpu(found: list[Device]) -> bool:
    """Return True if the processor is the only device."""
    return all(device.cpu for device in found)


def _handles(vulkan: ctypes.CDLL, instance: ctypes.c_void_p) -> list[int]:
    count = ctypes.c_uint32()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    return [handle for handle in handles if handle is not None]


def _describe(vulkan: ctypes.CDLL, device: ctypes.c_void_p) -> Device:
    driver = _Driver(type=_DRIVER_PROPERTIES)
    properties = _Properties(type=_PROPERTIES_2, next=ctypes.addressof(driver))
    vulkan.vkGetPhysicalDeviceProperties2(device, ctypes.byref(properties))
    count = ctypes.c_uint32()
    vulkan.vkEnumerateDeviceExtensionProperties(device, None, ctypes.byref(count), None)
    extensions = (_Extension * count.value)()
    vulkan.vkEnumerateDeviceExtensionProperties(device, None, ctypes.byref(count), extensions)
    return Device(
        name=properties.name.decode(),
        driver=f"{driver.name.decode()} {driver.info.decode()}".strip(),
        cpu=properties.kind == _CPU,
        extensions=frozenset(extension.name for extension in extensions),
    )


def _drop_requirement() -> None:
    """Replace the required extension's name by an available one in the mapped library."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    old, new = REQUIRED + b"\0", AVAILABLE.ljust(len(REQUIRED), b"\0") + b"\0"
    for start, end in _mappings("libsapien.so"):
        place = ctypes.string_at(start, end - start).find(old)
        if place < 0:
            continue
        page = (start + place) & ~(mmap.PAGESIZE - 1)
        length = start + place + len(old) - page
        if libc.mprotect(page, length, mmap.PROT_READ | mmap.PROT_WRITE):
            raise SimulatorError(f"SAPIEN's library cannot be adapted to this driver: {ADVICE}")
        ctypes.memmove(start + place, new, len(new))
        libc.mprotect(page, length, mmap.PROT_READ)
        return


def _mappings(library: str) -> Iterator[tuple[int, int]]:
    """Yield the address ranges of a library's read-only data in this process: (first, one after the last)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if len(fields) == 6 and fields[5].endswith(f"/{library}") and fields[1].startswith("r--"):
            start, end = fields[0].split("-")
            yield int(start, 16), int(end, 16)
