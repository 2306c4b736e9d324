"""Xiaomi-Robotics-0: the released checkpoints, with exactly the requests of their authors' scripts.

requests    presets per robot: observation → prompt, images, state, seed; decoded chunk → the suite's actions
loading     AutoModel and AutoProcessor from a directory, the attention and the dtype chosen and recorded
continuation   chunks that continue the running one, by either of the next two
post_training  passes of weights from the authors' post-training code, with prefixes
guidance       real-time chunking: the flow guided towards the running chunk
inference   forward passes, of one request or of a batch
policy      evalkit's policy interface
"""

from evalkit.policies.xiaomi_robotics_0.policy import Parameters, XiaomiRobotics0

__all__ = ["Parameters", "XiaomiRobotics0"]
