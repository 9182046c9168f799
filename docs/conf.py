"""The site: Markdown pages, a gallery of scripts that run while it is built, and the API from the docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy.typing

# A class, since the union that it is would be written out at every argument.
numpy.typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})

import altmin_ext  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "altmin_ext"
author = "the altmin_ext contributors"
version = release = altmin_ext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "external_types",
    "files_beside",
    "llms",
]
exclude_patterns = ["_build", "examples/**"]
templates_path = ["_templates"]
nitpicky = True

# Pages are plain Markdown, which reads as well where nothing builds them.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

# Types stand with the arguments that have them; defaults as they are written.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
# Its import starts Java's machine.
autodoc_mock_imports = ["capymoa"]
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_ignore_module_all = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": False,
    "only_warn_on_example_error": True,
    "plot_gallery": True,
    "write_computation_times": False,
    "reset_modules": ("matplotlib",),
}

html_theme = "pydata_sphinx_theme"
html_title = "altmin_ext"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "use_edit_page_button": False,
}
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp"
