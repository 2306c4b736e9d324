"""Xiaomi-Robotics-0: the released checkpoints, with exactly the requests of their authors' scripts.

requests    presets per robot: observation → prompt, images, state, seed; decoded chunk → the suite's actions
loading     AutoModel and AutoProcessor from a directory, the attention and the dtype chosen and recorded
guidance    chunks that continue the running one: prefixes and real-time chunking
inference   forward passes, of one request or of a batch
policy      evalkit's policy interface
"""

from evalkit.policies.xiaomi_robotics_0.policy import Parameters, XiaomiRobotics0

__all__ = ["Parameters", "XiaomiRobotics0"]
