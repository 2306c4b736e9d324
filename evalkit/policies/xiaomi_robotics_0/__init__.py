"""Xiaomi-Robotics-0: the released checkpoints, asked exactly as their authors' scripts ask them.

requests    observation → prompt, images, state, seed; decoded chunk → the suite's actions; a rule set per robot
loading     AutoModel and AutoProcessor from a directory, the attention and the dtype chosen and recorded
guidance    chunks that continue the running one: prefixes and real-time chunking
inference   forward passes, one request or a batch of them
policy      all of it behind evalkit's policy interface
"""

from evalkit.policies.xiaomi_robotics_0.policy import Parameters, XiaomiRobotics0

__all__ = ["Parameters", "XiaomiRobotics0"]
