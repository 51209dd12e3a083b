"""Pages that follow from the code are what the code says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts/generate_docs.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_name_tests_that_there_are() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "monitoring").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())}
    assert len([function for _, function in named if function]) > 20
    for file, function in named:
        assert (ROOT / file).is_file(), file
        assert not function or re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.M), function


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", (ROOT / "README.md").read_text()))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    inner = {name for page in pages for name in re.findall(r"\]\(([\w-]+\.md)[)#]", (ROOT / "docs" / page).read_text())}
    assert pages <= linked | inner
