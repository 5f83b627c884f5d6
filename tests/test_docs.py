"""The README's commands and example are what it says they are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import spimm
from spimm.bench import between_markers, list_cases, newest, render
from spimm.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme_names_two_set_up_commands_and_the_makefile_has_them():
    commands = re.findall(r"^(make \w+)", blocks("sh")[0], flags=re.MULTILINE)
    assert commands == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("target", "runs"), [("demo", "spimm quickstart"), ("test", "pytest")])
def test_each_set_up_command_makes_its_environment_and_ends_in_its_job(target, runs):
    command = ["make", "--no-print-directory", "-n", "-B", target]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"-m venv .venv/{target}" in plan
    assert plan.strip().splitlines()[-1].endswith(runs)


def test_the_gate_runs_the_readme_test_command():
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_python_example_runs(capsys):
    exec(blocks("python")[0], {})
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[-1] == "[(2, 96, 32, 32), (2, 192, 16, 16), (2, 384, 8, 8)]"


def test_the_table_of_models_is_the_registry():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", README, flags=re.MULTILINE))
    assert rows == {name: f"{spimm.model_card(name).params:,}" for name in spimm.list_models()}


def test_every_command_is_in_the_readme_or_its_help():
    shown = set(re.findall(r"^spimm (\w+)", blocks("sh")[1], flags=re.MULTILINE))
    assert shown | {"quickstart"} == set(COMMANDS)


def test_the_benchmark_tables_are_made_of_the_records():
    """`spimm bench --table benchmarks/results --into README.md` brings them up to date."""
    assert between_markers(README) == render(newest(ROOT / "benchmarks" / "results"))


def test_every_benchmark_is_explained():
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == {case.name for case in list_cases()}
