"""Models in GGUF files that are small and always reply the same, on whatever CPU."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

SOURCES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
_ROLES = ["<unk>", "<s>", "</s>"]  # what begins and ends a text
_HEAD = _HIDDEN = 32


def write_model(
    path: Path,
    replies: dict[str, list[str]],
    *,
    endless: frozenset[str] = frozenset(),
    template: str = SOURCES,
    context: int = 2048,
    layers: int = 1,
    tensors_in_a_file: int = 0,
) -> Path:
    """Write a model of the architecture qwen2 that says a reply, piece by piece.

    Which one depends on the last character of a request. Each piece must be in one reply alone;
    one that is endless comes again and again. Its tokens are bytes and these pieces, as those of
    the llama tokenizer are. Its layers do nothing: what is said next is what the matrix after them
    has for the piece before.
    """
    pieces = [piece for reply in replies.values() for piece in reply]
    tokens = _ROLES + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    kinds = [2, 3, 3] + [6] * 256 + [4] * len(pieces)  # unknown, control, byte, user defined
    following = {len(_ROLES) + ord(last): tokens.index(reply[0]) for last, reply in replies.items()}
    for reply in replies.values():
        places = [tokens.index(piece) for piece in reply]
        following |= dict(pairwise(places))
    following |= {tokens.index(piece): tokens.index(piece) for piece in endless}

    width = -(-len(tokens) // 32) * 32
    embedding, after = np.zeros((2, len(tokens), width), np.float32)
    for token in range(len(tokens)):
        embedding[token, token] = 1
        after[following.get(token, _ROLES.index("</s>")), token] = 1

    writer = gguf.GGUFWriter(path, "qwen2", split_max_tensors=tensors_in_a_file)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(width // _HEAD)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", after)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for name, shape in _shapes(width).items():
            writer.add_tensor(f"blk.{layer}.{name}", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    wide, narrow = ("attn_q", "attn_output"), ("attn_k", "attn_v")
    return {
        **{f"{name}.weight": (width, width) for name in wide},
        **{f"{name}.weight": (_HEAD, width) for name in narrow},
        "attn_q.bias": (width,),
        **{f"{name}.bias": (_HEAD,) for name in narrow},
        **{f"{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")},
        **{f"{name}.weight": (_HIDDEN, width) for name in ("ffn_gate", "ffn_up")},
        "ffn_down.weight": (width, _HIDDEN),
    }


def write_header(path: Path, fields: dict[str, str], *, version: int = 3) -> Path:
    """Write a GGUF file with these fields and no weights."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    string = struct.pack("<I", 8)
    content = b"".join(text(key) + string + text(value) for key, value in fields.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, len(fields)) + content)
    return path
