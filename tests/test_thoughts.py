"""What a model thought: which text of what services send is shown."""

from __future__ import annotations

import pytest

from jupyter_agent.views.thoughts import MAX_THOUGHT, folded_thought, thought_of


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"reasoning_content": "I think."}, "I think."),
        ({"reasoning": "I think."}, "I think."),
        (
            {"reasoning_details": [{"type": "reasoning.text", "text": "I think.", "id": "x"}]},
            "I think.",
        ),
        ({"type": "thinking", "thinking": "I think.", "signature": "c2ln"}, "I think."),
        ({"type": "redacted_thinking", "data": "c2VjcmV0"}, ""),
        (
            {
                "type": "reasoning",
                "encrypted_content": "x",
                "summary": [{"text": "A"}, {"text": "B"}],
            },
            "A\n\nB",
        ),
        ({"type": "reasoning", "summary": [], "content": [{"text": "I think."}]}, "I think."),
        ({"phase": "commentary"}, ""),
        ({"extra_content": {"google": {"thought_signature": "c2ln"}}}, ""),
        ({"reasoning": "on\u202ee"}, "on\\u202ee"),
        ({"reasoning": "x" * 2 * MAX_THOUGHT}, "x" * MAX_THOUGHT),
        ({"reasoning": 7}, ""),
        ("text", "text"),
        (None, ""),
    ],
)
def test_the_text_of_a_thought_is_found(item: object, text: str) -> None:
    assert thought_of({"kept": {"by": "m", "items": [item]}}) == text


@pytest.mark.parametrize("kept", [None, 1, [], {}, {"items": {}}, {"items": None}])
def test_metadata_may_be_anything(kept: object) -> None:
    assert thought_of({"kept": kept}) == ""
    assert thought_of({}) == ""


def test_a_thought_is_cleaned_as_the_reply_is() -> None:
    folded = folded_thought("See ![x](http://127.0.0.1:1/leak.png) <script>alert(1)</script>")
    assert folded.startswith("<details>\n<summary>reasoning</summary>")
    assert "](http" not in folded
    assert "<script>" not in folded
    assert folded_thought("") == ""
