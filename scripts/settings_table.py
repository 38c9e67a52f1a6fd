"""Write the README's table of settings from the settings themselves: ``python scripts/settings_table.py [--check]``."""

import argparse
from pathlib import Path

from clipseek_server.config import Settings

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"


def table() -> str:
    """One row a setting, as Markdown."""
    defaults = Settings.model_construct().model_dump(mode="json")
    rows = ["| flag | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = defaults[name]
        shown = ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
        rows.append(f"| `--{name.replace('_', '-')}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(rows) + "\n"


def with_table(text: str) -> str:
    """A text with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def main() -> None:
    """Rewrite the README, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the table is out of date")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    fresh = with_table(text)
    if not check:
        README.write_text(fresh, encoding="utf-8")
    elif fresh != text:
        raise SystemExit("README.md: the table of settings is out of date; run python scripts/settings_table.py")


if __name__ == "__main__":
    main()
