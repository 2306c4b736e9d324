"""Videos of episodes, as mp4 files that every browser plays."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


class VideoWriter:
    """A writer of one H.264 mp4. The file gets its name only when it is complete."""

    def __init__(self, path: Path, fps: int) -> None:
        """Start a video; its size is that of the first frame."""
        self._path = path
        self._draft = path.with_suffix(".part")
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None

    def add(self, image: np.ndarray) -> None:
        """Add one (H, W, 3) uint8 RGB frame. An odd last row or column is cut off: H.264 requires even sizes."""
        import av

        height, width = (n - n % 2 for n in image.shape[:2])
        if self._container is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(str(self._draft), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.options = {"crf": "23", "preset": "veryfast"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self, keep: bool = True) -> None:
        """Finish the video, or discard it if ``keep`` is False."""
        self._container.mux(self._stream.encode())
        self._container.close()
        if keep:
            self._draft.replace(self._path)
        else:
            self._draft.unlink()
