"""The README says what the software does."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def readme():
    if not README.exists():
        pytest.skip("the README is not beside the tests of a built wheel")
    return README.read_text()


def test_the_help_text_is_the_one_in_the_readme(readme):
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rsvlm.cli", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    told = [line.rstrip() for line in done.stdout.strip().splitlines()]
    shown = re.search(r"```text\n(.*?)```", readme, re.DOTALL)[1]
    assert [line.rstrip() for line in shown.strip().splitlines()] == told


def test_the_python_in_the_readme_parses_and_uses_public_names(readme):
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        module = __import__(node.module)
        for name in node.names:
            assert hasattr(module, name.name)


def test_every_command_in_the_readme_exists(readme):
    from rsvlm.cli import full_app

    app = full_app()
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    used = set(re.findall(r"^    rsvlm (\w+)", readme, re.MULTILINE))
    assert used
    assert used <= known


def test_pictures_in_the_readme_are_in_the_tree(readme):
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert pictures
    for picture in pictures:
        assert (README.parent / picture).is_file()
