"""What an empty variable means in a container is what the image says."""

import re
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"
MEANT = dict(re.findall(r'"\$\{(\w+):=([^}]*)\}"', (DOCKER / "base" / "entrypoint.sh").read_text()))


@pytest.mark.parametrize("file", ["Dockerfile", "base/Dockerfile"])
def test_the_entry_point_means_the_values_of_the_image(file: str) -> None:
    said = dict(re.findall(r"^ +(\w+)=(\S+)", (DOCKER / file).read_text(), re.MULTILINE))
    assert MEANT.keys() == {"AGENT_ORCHESTRATOR_API_URL", "PROJECT_DIR", "STATE_DIR"}
    assert {name: said[name] for name in MEANT} == MEANT
