"""How Sphinx builds this folder into a site: README has the command."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

import udpguard

HERE = Path(__file__).parent

project = "udpguard"
copyright = "the udpguard developers"  # noqa: A001 # Sphinx's name
version = release = udpguard.__version__

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
nitpicky = True

# What is copied of a session in Jupyter or IPython is what was typed.
copybutton_prompt_text = r"In \[\d+\]: | {3}\.\.\.: "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"udpguard {version}"
html_static_path = ["_static"]
html_css_files = ["udpguard.css"]
html_copy_source = False
html_use_index = False  # the reference has one of its own, by page
html_show_sphinx = False
pygments_style = "tango"
pygments_dark_style = "github-dark"


class DarkPictures(SphinxPostTransform):
    """Shows `name.dark.svg` in place of `name.svg` on dark pages, where there is one.

    So the pages stay plain Markdown, which shows the light picture wherever else it is read.
    """

    default_priority = 5  # before Sphinx collects the files

    def run(self, **_: Any) -> None:
        """Put the dark picture beside each light one; the theme shows one of them."""
        for picture in list(self.document.findall(nodes.image)):
            light = picture["uri"]
            dark = str(Path(light).with_suffix(".dark.svg"))
            if not light.endswith(".svg") or not (HERE / dark).exists():
                continue
            twin = picture.deepcopy()
            twin["uri"] = dark
            twin["candidates"] = {"*": dark}
            picture["classes"].append("only-light")
            twin["classes"].append("only-dark")
            picture.parent.insert(picture.parent.index(picture) + 1, twin)
            self.env.images.add_file(self.env.docname, dark)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of what is defined here."""
    app.add_post_transform(DarkPictures)
