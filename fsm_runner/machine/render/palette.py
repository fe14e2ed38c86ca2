"""The colours of all diagrams. The colour of a final state follows its `tone` in the spec."""

from typing import NamedTuple

from fsm_runner.machine.render.diagram import Kind, Tone


class Shade(NamedTuple):
    fill: str
    line: str
    text: str


class Palette(NamedTuple):
    background: str
    box: Shade
    tones: dict[Tone, Shade]
    arrows: dict[Kind, str]


LIGHT = Palette(
    background="#ffffff",
    box=Shade("#f6f8fa", "#d0d7de", "#57606a"),
    tones={
        Tone.WORKING: Shade("#eef4ff", "#3b6fb6", "#10233f"),
        Tone.WAITING: Shade("#ffffff", "#8a8a8a", "#222222"),
        Tone.GOOD: Shade("#e3f6e5", "#2e8b45", "#0f3a1a"),
        Tone.BAD: Shade("#fde8e8", "#c0392b", "#4a1010"),
        Tone.NEUTRAL: Shade("#fff4d6", "#b8860b", "#4a3605"),
        Tone.ANY: Shade("#f6f8fa", "#8a8a8a", "#57606a"),
    },
    arrows={Kind.MAIN: "#1f2328", Kind.OTHER: "#6e7781", Kind.FAILURE: "#c0392b"},
)
DARK = Palette(
    background="#0d1117",
    box=Shade("#151b23", "#3d444d", "#9198a1"),
    tones={
        Tone.WORKING: Shade("#12233d", "#5b8dd6", "#dbe7fb"),
        Tone.WAITING: Shade("#21262d", "#8b949e", "#e6edf3"),
        Tone.GOOD: Shade("#12301b", "#3fb950", "#d2f5da"),
        Tone.BAD: Shade("#3d1618", "#f06a60", "#ffdcd9"),
        Tone.NEUTRAL: Shade("#33270a", "#d29922", "#fbe9bd"),
        Tone.ANY: Shade("#151b23", "#8b949e", "#9198a1"),
    },
    arrows={Kind.MAIN: "#f0f6fc", Kind.OTHER: "#848d97", Kind.FAILURE: "#f06a60"},
)
