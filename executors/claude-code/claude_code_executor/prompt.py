"""What the model is told of a turn's parameters: protocol.md, section 2.2."""

from __future__ import annotations

import json
from typing import Any

from fsm_executor.invocation import JsonObject


def prompt_of(parameters: JsonObject, *, has_schema: bool) -> str:
    """The `prompt`; where the agent declares its parameters, or there is no prompt, all of them as a block."""
    prompt = parameters.get("prompt")
    if not has_schema and isinstance(prompt, str):
        return prompt
    lines = [line for key, value in parameters.items() for line in _lines(key, value)]
    return "\n".join(["<inputs>", *lines, "</inputs>"])


def _lines(key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        text = value.splitlines()
        return [f"{key}: {value}"] if len(text) < 2 else [f"{key}:", *(f"  {line}" for line in text)]
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}"]
