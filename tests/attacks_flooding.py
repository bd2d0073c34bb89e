"""Attacks on the memory of the host."""

from __future__ import annotations

from .battery import Attack, overfills


def _fills(name: str, code: str) -> Attack:
    return Attack("messages", f"fill the host with {name}", code, overfills, seconds=100)


_SEND = "send(signed(header('display_data'), parent(), {}, %s, %s))\ntime.sleep(5)"
_ANSWER = """
kernel = get_ipython().kernel
reply = signed(header('execute_reply'), parent(), {}, {}, [bytes(100 << 20)] * 8)[1:]
reply.insert(0, kernel._parent_ident['shell'][0])
%s
time.sleep(5)
"""
# a socket that two threads use at once loses messages: the shell's is used in its own thread
_BY_SHELL = """
stream = kernel.shell_stream
if stream.io_loop is kernel.io_loop:
    stream.socket.send_multipart(reply)
else:
    stream.io_loop.add_callback(stream.socket.send_multipart, reply)
"""
_BY_STDIN = "kernel.stdin_socket.send_multipart(reply)"
FLOODING: list[Attack] = [
    _fills("many large frames in one message", _SEND % ("{}", "[bytes(100 << 20)] * 8")),
    _fills("millions of empty frames in one message", _SEND % ("{}", "[b''] * 2_000_000")),
    _fills(
        "millions of small objects",
        _SEND % ("b'{\"data\":{\"x/y\":[' + b'{\"a\":1},' * 3_000_000 + b'1]}}'", "[]"),
    ),
    _fills("a large reply", _ANSWER % _BY_SHELL),
    _fills("a large question", _ANSWER % _BY_STDIN),
]
