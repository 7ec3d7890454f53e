"""A page from a template: one HTML file that loads nothing, for screen and paper."""

from typing import Any

import jinja2


def render_page(template: str, **context: Any) -> str:
    """Return the page that a template of ``cli/data`` makes; each extends ``page.html.j2``.

    That wants ``title``, ``about`` (pairs of label and text) and ``findings`` (sentences).
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("inframind.cli", "data"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)
