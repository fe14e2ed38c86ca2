"""Draws a machine as an SVG image for light and dark pages. Graphviz computes the positions."""

from collections.abc import Iterator

import msgspec

from fsm_runner.machine.render.diagram import Diagram, Kind, diagram
from fsm_runner.machine.render.dot import (
    FONT,
    LABEL_FONT_PX,
    LABEL_LINE_PX,
    STATE_FONT_PX,
    STATE_LINE_PX,
    dot,
    label_lines,
    node_lines,
)
from fsm_runner.machine.render.layout import lay_out
from fsm_runner.machine.render.palette import DARK, LIGHT, Palette, Shade
from fsm_runner.machine.render.text import one_line, xml_escaped
from fsm_runner.machine.spec import Spec

_MARGIN_PX = 8
_CORNER_PX = 8

_STYLE = f"""\
text {{ font: {STATE_FONT_PX}px {FONT}; text-anchor: middle; dominant-baseline: central; }}
rect {{ stroke-width: 1.2; }}
.name {{ text-anchor: start; stroke-width: 3; stroke-linejoin: round; paint-order: stroke; }}
.any rect {{ stroke-dasharray: 3 3; }}
.on-main-path rect {{ stroke-width: 2.5; }}
path {{ fill: none; stroke-width: 1.2; }}
path.main {{ stroke-width: 3; }}
path.failure {{ stroke-dasharray: 5 4; }}
.label {{ font-size: {LABEL_FONT_PX}px; stroke-width: 3; stroke-linejoin: round; paint-order: stroke; }}
.label.main {{ font-weight: bold; }}
"""


class _Item(msgspec.Struct):
    """A node, a cluster or an edge in Graphviz's JSON; each has some of the fields. Lengths are in points."""

    name: str = ""
    id: str = ""
    pos: str = ""
    bb: str = ""
    lp: str = ""
    width: str = "0"
    height: str = "0"


class _Layout(msgspec.Struct):
    bb: str
    objects: list[_Item] = []
    edges: list[_Item] = []


def svg(spec: Spec, *, brief: bool = False) -> str:
    """Return the image.

    Raises `LayoutError`.
    """
    layout = msgspec.json.decode(lay_out(dot(spec, brief=brief), "json"), type=_Layout)
    return _Image(diagram(spec, brief=brief), layout).text()


class _Image:
    def __init__(self, drawing: Diagram, layout: _Layout) -> None:
        self._drawing = drawing
        self._places = {item.name: item for item in layout.objects}
        self._paths = {item.id: item for item in layout.edges}
        _, _, self._width_px, self._height_px = _numbers(layout.bb)

    def text(self) -> str:
        width, height = (round(length) + 2 * _MARGIN_PX for length in (self._width_px, self._height_px))
        size = f'width="{width}" height="{height}"'
        label = xml_escaped(f"State machine {one_line(self._drawing.root.name)}")
        return "\n".join(
            (
                '<svg xmlns="http://www.w3.org/2000/svg"',
                f'    {size} viewBox="0 0 {width} {height}" role="img" aria-label="{label}">',
                f"<style>\n{_STYLE}{_colours(LIGHT)}@media (prefers-color-scheme: dark) {{\n{_colours(DARK)}}}",
                "</style>",
                f'<rect class="page" {size} rx="{_CORNER_PX}"/>',
                *self._boxes(),
                *self._arrows(),
                *self._names(),
                *self._nodes(),
                *self._labels(),
                "</svg>\n",
            )
        )

    def _boxes(self) -> Iterator[str]:
        for box in self._drawing.boxes:
            left, bottom, right, top = _numbers(self._places[f"cluster_{box.id}"].bb)
            x, y = self._point(left, top)
            yield f'<g class="box">{_rectangle(x, y, right - left, top - bottom)}</g>'

    def _names(self) -> Iterator[str]:
        """Yield the names of the boxes, on top of the arrows that cross them."""
        for box in self._drawing.boxes:
            left, _, _, top = _numbers(self._places[f"cluster_{box.id}"].bb)
            x, y = self._point(left, top)
            yield f'<text class="name" x="{x + 10}" y="{y + 14}">{xml_escaped(one_line(box.name))}</text>'

    def _nodes(self) -> Iterator[str]:
        x, y = self._point(*_numbers(self._places["start"].pos))
        yield f'<circle class="start" cx="{x}" cy="{y}" r="6"/>'
        for node in self._drawing.nodes:
            place = self._places[node.id]
            width, height = (72 * float(inches) for inches in (place.width, place.height))
            x, y = self._point(*_numbers(place.pos))
            classes = f"{node.tone} on-main-path" if node.is_main else node.tone
            lines = _lines(x, y, STATE_LINE_PX, [("", line) for line in node_lines(node)])
            yield f'<g class="{classes}">{_rectangle(x - width / 2, y - height / 2, width, height)}{lines}</g>'

    def _arrows(self) -> Iterator[str]:
        """Yield the arrows, the strongest last and so on top."""
        arrows = [("start", self._drawing.start_kind)]
        arrows += ((f"arrow{number}", arrow.kind) for number, arrow in enumerate(self._drawing.arrows))
        for id_, kind in sorted(arrows, key=lambda it: list(Kind).index(it[1]), reverse=True):
            # Graphviz writes `e,TIP START CONTROL CONTROL POINT …`; the curve ends where the arrowhead begins.
            tip, *points = (self._point(*_numbers(part.removeprefix("e,"))) for part in self._paths[id_].pos.split())
            start, *curve = (f"{x} {y}" for x, y in points)
            yield f'<path class="{kind}" d="M{start}C{" ".join(curve)}"/>{_arrowhead(kind, points[-1], tip)}'

    def _labels(self) -> Iterator[str]:
        for number, arrow in enumerate(self._drawing.arrows):
            x, y = self._point(*_numbers(self._paths[f"arrow{number}"].lp))
            lines = [(f"label {label.kind}", line) for label in arrow.labels for line in label_lines(label)]
            yield _lines(x, y, LABEL_LINE_PX, lines)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        """Return a position in whole pixels, so that the text of the image is the same on every computer."""
        return round(x) + _MARGIN_PX, round(self._height_px - y) + _MARGIN_PX


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _rectangle(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="{_CORNER_PX}"/>'


def _lines(x: int, y: int, line_px: int, lines: list[tuple[str, str]]) -> str:
    """Return texts below each other, with their classes, around a centre."""
    top = y - line_px * (len(lines) - 1) / 2
    return "".join(
        f'<text class="{classes}" x="{x}" y="{top + line_px * index:g}">{xml_escaped(line)}</text>'
        for index, (classes, line) in enumerate(lines)
    )


def _arrowhead(kind: Kind, base: tuple[int, int], tip: tuple[int, int]) -> str:
    (x, y), (tip_x, tip_y) = base, tip
    across_x, across_y = 0.4 * (tip_y - y), 0.4 * (x - tip_x)
    points = ((x + across_x, y + across_y), tip, (x - across_x, y - across_y))
    return f'<polygon class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def _colours(palette: Palette) -> str:
    rules = [
        f".page {{ fill: {palette.background}; }}",
        f".label {{ stroke: {palette.background}; }}",
        f".name {{ fill: {palette.box.text}; stroke: {palette.box.fill}; }}",
        f".start {{ fill: {palette.arrows[Kind.MAIN]}; }}",
    ]
    shades: list[tuple[str, Shade]] = [("box", palette.box), *palette.tones.items()]
    for name, shade in shades:
        rules.append(f".{name} rect {{ fill: {shade.fill}; stroke: {shade.line}; }}")
        rules.append(f".{name} text {{ fill: {shade.text}; }}")
    for kind, colour in palette.arrows.items():
        rules.append(f"path.{kind} {{ stroke: {colour}; }}")
        rules.append(f"polygon.{kind}, .label.{kind} {{ fill: {colour}; }}")
    return "".join(f"{rule}\n" for rule in rules)
