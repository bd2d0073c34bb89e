"""What passes of a flood: bounded, joined as a page joins it, and its end never lost."""

from __future__ import annotations

import time
from collections import Counter

from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.sandbox.filter.outputs import weight
from jupyter_agent.sandbox.filter.rate import MAX_DISPLAYS, OUTPUTS_A_SECOND, Displays, OutputRate


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def display(text: str, display_id: str = "", kind: str = "display_data") -> NotebookNode:
    output = new_output("display_data", data={"text/plain": text})
    output.output_type = kind
    if display_id:
        output.transient = NotebookNode(display_id=display_id)
    return output


def clear(*, wait: bool = False) -> NotebookNode:
    return NotebookNode(output_type="clear_output", wait=wait)


def shown(outputs: list[NotebookNode]) -> list[str]:
    """What a page shows in the end."""
    found: list[str] = []
    clearing = False
    for output in outputs:
        match output.output_type:
            case "clear_output" if output.wait:
                clearing = True
            case "clear_output":
                found = []
            case _:
                found = [] if clearing else found
                clearing = False
                found.append(output.get("text") or output.get("ename") or output.data["text/plain"])
    return found


def passed(rate: OutputRate, outputs: list[NotebookNode]) -> list[NotebookNode]:
    return [each for output in outputs for each in rate.take(output)] + rate.rest()


def test_a_burst_passes_as_it_is() -> None:
    burst = [stream("a"), stream("b"), clear(), display("x", "d"), display("y", "d")]
    rate = OutputRate(10, 1000)
    assert [rate.take(output) for output in burst] == [[output] for output in burst]
    assert not rate.holds


def test_nothing_printed_is_lost_in_thousands_of_pieces() -> None:
    rate, began = OutputRate(10, 1 << 20), time.monotonic()
    pieces = [stream(f"{n} ", "stderr" if n > 1800 else "stdout") for n in range(2000)]
    found = passed(rate, pieces)
    assert "".join(output.text for output in found) == "".join(piece.text for piece in pieces)
    assert len(found) <= 10 + 2 + OUTPUTS_A_SECOND * (time.monotonic() - began) + 2


def test_the_last_frame_of_an_animation_is_shown() -> None:
    frames = [part for n in range(500) for part in (clear(wait=True), display(f"frame {n}"))]
    assert shown(passed(OutputRate(10, 1 << 20), frames)) == ["frame 499"]
    frames = [part for n in range(500) for part in (display(f"frame {n}"), clear())]
    assert shown(passed(OutputRate(10, 1 << 20), frames)) == []
    frames = [part for n in range(500) for part in (display(f"frame {n}"), clear(wait=True))]
    assert shown(passed(OutputRate(10, 1 << 20), frames)) == ["frame 499"]


def test_the_last_update_of_each_display_passes_and_no_older_one_after_a_new_display() -> None:
    kind = "update_display_data"
    many = [display(f"{name}{n}", name, kind) for n in range(500) for name in "ab"]
    found = passed(OutputRate(10, 1 << 20), many)
    assert [output.data["text/plain"] for output in found[-2:]] == ["a499", "b499"]
    found = passed(OutputRate(0, 1 << 20), [display("old", "a", kind), display("new", "a")])
    assert [output.data["text/plain"] for output in found] == ["new"]


def test_what_is_too_much_is_left_out_and_said_but_not_how_it_ended() -> None:
    began = time.monotonic()
    found = passed(
        OutputRate(10, 4000),
        [display("x" * 900)] * 500
        + [new_output("error", ename="Died", evalue="", traceback=["line" * 1000])],
    )
    # what passes at once, twice what is held and one more, and what the time lets pass; of 600,000
    room = 4 * 4000 + (1 << 20) * (time.monotonic() - began)
    assert sum(map(weight, found[:-2])) < room
    assert found[-1].ename == "Died"
    assert "outputs left out" in found[-2].text
    ended = new_output("error", ename="Died", evalue="", traceback=[])
    found = passed(OutputRate(0, 4000), [*[stream("x" * 900)] * 9, ended])
    assert [output.get("name") for output in found] == ["stdout", "stderr", None]
    assert passed(OutputRate(0, 100), [display("x" * 900)]) != []  # one alone always fits
    found = passed(OutputRate(0, 1 << 20), [display("x")] * 20_000)
    assert len(found) < 11_000


def test_an_update_weighs_as_much_as_it_changes() -> None:
    displays, update = Displays(), display("x" * 1000, "d", "update_display_data")
    assert displays.weigh(update) == displays.weigh(display("x" * 1000)) == weight(update)
    for _ in range(300):
        displays.add("d")
    assert displays.weigh(update) == 300 * weight(update)
    displays.forget(Counter({"d": 299}))
    assert displays.weigh(update) == weight(update)
    for _ in range(200):
        displays.add("d")
    for n in range(MAX_DISPLAYS + 1):  # so many that the first is forgotten
        displays.add(str(n))
    assert displays.weigh(update) >= 200 * weight(update)


def test_an_update_of_more_than_passes_at_once_is_left_out() -> None:
    displays = Displays()
    for _ in range(300):
        displays.add("d")
    rate = OutputRate(10, 100_000, weigh=displays.weigh)
    update = display("x" * 1000, "d", "update_display_data")
    assert ["left out" in output.text for output in passed(rate, [update])] == [True]
    assert passed(OutputRate(10, 100), [update]) == [update]  # of one display


def test_weight_is_what_an_output_takes_in_memory() -> None:
    assert weight(stream("x" * 1000)) < 1100
    assert weight(stream("\U0001f600" + "x" * 999)) > 4000
    objects = new_output("display_data", data={"application/json": [{}] * 1000})
    assert weight(objects) > 200_000
