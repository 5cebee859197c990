"""Rendering of the templates beside the code that uses them; values are escaped for the format of the template."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prunekit.validation.escape import code, markdown, python_text


def render(template: str, **values: object) -> str:
    """Fill a template of the package.

    Parameters
    ----------
    template : str
        Its path within the package: "report/report.html.jinja". The suffix determines the format: HTML or Markdown.
    **values
        Variables of the template. All are escaped when they are written, except for ``markupsafe.Markup``.

    Returns
    -------
    str
    """
    return _environment(markdown if template.endswith(".md.jinja") else None).get_template(template).render(values)


@cache
def _environment(escape: Callable[[str], str] | None) -> Environment:
    environment = Environment(
        loader=PackageLoader("prunekit", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    if escape is not None:
        # Jinja's own escaping is for HTML; it leaves what was escaped here as it is.
        environment.finalize = lambda value: value if isinstance(value, Markup) else Markup(escape(str(value)))
    environment.filters |= {"code": lambda text: Markup(code(text)), "python": lambda text: Markup(python_text(text))}
    return environment
