"""An example of a machine, and a Hypothesis strategy for machines with any names."""

from hypothesis import strategies as st

from fsm_runner.machine.spec import Group, Retry, Spec, State, Transition

SPEC = Spec(
    name="door",
    initial="closed",
    doc="A door.",
    events={"pushed": "Someone pushes | or pulls.", "fire": "It burns."},
    states={
        "closed": State(),
        "swinging open": State(
            doc='The "motor" works; it is #1.',
            invoke="open_door",
            timeout_s=90,
            retry=Retry(times=3, base_s=0.2, cap_s=2),
            on_done="opened",
            on_error="jammed",
            on_timeout="too_slow",
            ignore=("pushed",),
        ),
        "held": State(timeout_s="hold_s", on_timeout="held_enough", ignore=("fire",)),
        "end": State(final=True, outcome="open", tone="good"),
        "broken": State(final=True, outcome="shut", tone="bad"),
    },
    groups={"in_use": Group(doc="In use.", states=("closed", "swinging open", "held"))},
    transitions=(
        Transition(source="closed", event="pushed", to="swinging open", main=True),
        Transition(source="swinging open", event="opened", to="end", guard="is_wide", decides="open", main=True),
        Transition(source="swinging open", event="opened", to="held"),
        Transition(source="swinging open", event="jammed", to="broken", decides="shut"),
        Transition(source="swinging open", event="too_slow", to="broken", decides="shut"),
        Transition(source="held", event="held_enough", to="held", doc="Once `more`."),
        Transition(source="held", event="pushed", to="end"),
        Transition(source="in_use", event="fire", to="held", decides="open", provisional=True),
    ),
)

AWKWARD = (
    "end", "state", "note", "root", "start", "a", "a b", "a_b", "-->", "--", "%%", "</b>", "`", "```", "|", "\\", "[*]",
    'x"y', "a:b", "c;d", "#1", "__a__", "[[x]]", "//", "]", "<!--", "direction TB",
)  # fmt: skip

texts = st.text(min_size=1, max_size=12) | st.sampled_from(AWKWARD)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.lists(texts, min_size=1, max_size=5, unique=True))
    group, names = (names[0], names[1:]) if len(names) > 2 else (None, names)
    states = {
        name: State(
            doc=draw(texts), invoke=draw(texts), timeout_s=draw(texts), on_error=draw(texts), on_timeout=draw(texts),
            outcome=draw(texts), final=draw(st.booleans()), ignore=tuple(draw(st.lists(texts, max_size=2))),
        )
        for name in names
    }  # fmt: skip
    anywhere = st.sampled_from(names) | texts.filter(lambda name: name != group)
    source = anywhere if group is None else anywhere | st.just(group)
    ways = st.builds(
        Transition, source=source, event=texts, to=anywhere, guard=texts, decides=texts, doc=texts, main=st.booleans()
    )
    return Spec(
        name=draw(texts), initial=draw(anywhere), doc=draw(texts),
        events=draw(st.dictionaries(texts, texts, max_size=2)), states=states,
        groups={} if group is None else {group: Group(states=tuple(names[:-1]), doc=draw(texts))},
        transitions=tuple(draw(st.lists(ways, max_size=4))),
    )  # fmt: skip
