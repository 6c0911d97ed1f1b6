"""The site's first page is the README, and its list of changes the CHANGELOG: neither is written twice."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<to>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
OUTSIDE_DOCS = re.compile(r"\]\((?!https?:|#|docs/)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add both, with links as if they lay in docs/."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        text = OUTSIDE_DOCS.sub("](../", (root / source).read_text()).replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the README to its page; what lies outside docs/ is not on the site and keeps its words alone."""
    del config, files
    up = "../" * page.file.src_uri.count("/")

    def led(link: re.Match[str]) -> str:
        name = link["to"].removeprefix(f"{up}../")
        if name == link["to"]:
            return link[0]
        return f"[{link['text']}]({up}{PAGES[name]}{link['anchor'] or ''})" if name in PAGES else link["text"]

    return LINK.sub(led, markdown)
