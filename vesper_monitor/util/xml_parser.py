# SPDX-License-Identifier: GPL-2.0-or-later
"""Parses XML of libvirt and Pacemaker with the parser that they use: libxml2.

Nothing is fetched, and no entity is expanded.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lxml.etree import _Element as Element

__all__ = ["parse_xml"]

#: libxml2 2.12 and later report no more errors of one document.
MAX_REPORTED_ERRORS = 100


def parse_xml(data: bytes | str) -> Element:
    """Parse a document and return its root.

    As in libvirt, an undeclared prefix is not an error: libxml2 takes it for a part
    of the name. Every other error is raised.

    :param data: bytes in the encoding that they declare, or a text.
    :raises ValueError: it is not well-formed, or declares entities.
    """
    try:
        from lxml import etree  # takes 40 ms; a monitor with vesperd needs no XML
    except ImportError:
        raise ValueError("python3-lxml is not installed on this host") from None
    is_text = isinstance(data, str)
    parser = etree.XMLParser(
        # A text is decoded already, whatever encoding it declares.
        encoding="utf-8" if is_text else None,
        # Else lxml refuses undeclared prefixes. All other errors are refused below.
        recover=True,
        resolve_entities=False,
        no_network=True,
        strip_cdata=False,
    )
    try:
        root = etree.fromstring(data.encode() if isinstance(data, str) else data, parser)
    except (etree.XMLSyntaxError, UnicodeError) as error:
        raise ValueError(f"not XML: {error}") from None
    errors = list(parser.error_log)
    for found in errors:
        if found.level == etree.ErrorLevels.WARNING:
            continue
        if found.level == etree.ErrorLevels.FATAL or found.domain != etree.ErrorDomains.NAMESPACE:
            raise ValueError(f"not XML: {found.message}, line {found.line}")
    if len(errors) >= MAX_REPORTED_ERRORS:
        raise ValueError(f"not XML: it has {MAX_REPORTED_ERRORS} undeclared prefixes or more")
    if root is None:
        raise ValueError("not XML: it is empty")
    dtd = root.getroottree().docinfo.internalDTD
    if dtd is not None and any(True for _ in dtd.iterentities()):
        raise ValueError("not XML as libvirt writes it: it declares entities")
    return root
