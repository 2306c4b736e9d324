"""The released server, ``deploy/server.py`` of the authors' checkout, in a process of its own and without a GPU.

Its file is run as it is, but for quotes within quotes, which Python allows from 3.12 on. These calls, which need other
hardware or libraries, are replaced: ``cuda()`` keeps the model where it is, attention is eager, and without torchvision
the processor has no video processor.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module


def serve(source: Path, checkpoint: str, port: int) -> None:
    torch.nn.Module.cuda = lambda self, *_: self
    torch.set_num_threads(1)
    load_model = transformers.AutoModel.from_pretrained

    def from_pretrained(path: str, attn_implementation: str, **options: Any) -> Any:
        assert attn_implementation == "flash_attention_2"
        return load_model(path, attn_implementation="eager", **options)

    transformers.AutoModel.from_pretrained = from_pretrained
    if importlib.util.find_spec("torchvision") is None:
        transformers.AutoProcessor.from_pretrained = without_video
    text = (source / "deploy" / "server.py").read_text(encoding="utf-8")
    if sys.version_info < (3, 12):
        text = text.replace('{data["language"]}', "{data['language']}")
    module = types.ModuleType("released_server_file")
    exec(compile(text, str(source / "deploy" / "server.py"), "exec"), vars(module))
    module.Server(model_path=checkpoint, host="127.0.0.1", port=port).run()


def without_video(path: str, trust_remote_code: bool, use_fast: bool) -> Any:
    released = get_class_from_dynamic_module("processing_mibot.MiBotProcessor", path)
    kind = type(released.__name__, (released,), {"attributes": ["image_processor", "tokenizer"]})
    return kind.from_pretrained(path, trust_remote_code=trust_remote_code, use_fast=use_fast)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
