"""MkDocs hooks: the recorded results become a page, their pictures become files of the site."""

import json
import re
from pathlib import Path

from mkdocs.structure.files import File

from unseen.atlas.worlds import worlds

ROOT = Path(__file__).parents[1]
SHEETS = ROOT / "src" / "unseen" / "atlas" / "sheets"
RESULTS = ROOT / "src" / "unseen" / "atlas" / "results"


def on_files(files, config):
    """MkDocs calls this with the files of the site."""
    for picture in sorted(RESULTS.rglob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    for picture in sorted(SHEETS.rglob("*.png")):
        files.append(File.generated(config, f"worlds/{picture.name}", abs_src_path=str(picture)))
    files.append(File.generated(config, "results.md", content=results_page()))
    files.append(File.generated(config, "worlds.md", content=worlds_page()))
    files.append(File.generated(config, "own-study.md", content=own_study_page()))
    return files


def results_page():
    """The recorded verdicts, as Markdown."""
    lines = [
        "# What came out",
        "",
        "Verdicts recorded by `unseen run KEY --record`: laptop scale, registered seeds, rules fixed beforehand.",
        "",
    ]
    for file in sorted(RESULTS.rglob("*.json")):
        result = json.loads(file.read_text())
        key = file.stem
        lines += [
            f"## {key}",
            "",
            f"![{key}](results/{key}.png)",
            "",
            "| claim | verdict | effect [95% interval] | n | note |",
            "|---|---|---|---|---|",
        ]
        for v in result["verdicts"]:
            numbers = (
                "no value" if v["effect"] is None else f"{short(v['effect'])} [{short(v['low'])}, {short(v['high'])}]"
            )
            lines.append(
                f"| {v['claim']} | **{v['verdict']}** | {numbers} | {v['n']} | {v['note'].replace('|', '/')} |"
            )
        lines.append("")
    return "\n".join(lines)


def worlds_page():
    """Each world with its axes and, where there is one, its contact sheet, as Markdown."""
    lines = ["# The worlds", "", "`unseen worlds` lists them, `unseen worlds --pictures DIR` draws what is below.", ""]
    for world in worlds():
        lines += [f"## {world['name']}", "", f"`from {world['module'].rpartition('.')[0]} import {world['name']}`", ""]
        lines += [world["summary"], "", f"**Axes:** {world['axes']}", ""]
        if list(SHEETS.rglob(f"{world['name']}.png")):
            lines += [f"![{world['name']}, one axis a row](worlds/{world['name']}.png)", ""]
    return "\n".join(lines)


def short(value):
    """A number with three digits."""
    return value if isinstance(value, str) or value is None else f"{value:.3g}"


def own_study_page():
    """CONTRIBUTING, under another title."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.sub(r"^# Contributing", "# Write my own study", text, count=1)
