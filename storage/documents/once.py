"""What a first start makes and every later one finds: a document that is there once, whoever was first.

One rule: all who ask for the document go on with the same one. What this caller would have made counts only if it is
what is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enseada.storage.documents.base import Conflict, Document, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from enseada.storage.documents.base import DocumentStore


async def get_or_create_once(
    documents: DocumentStore, id: str, make: Callable[[], Awaitable[Mapping[str, Any]]]
) -> tuple[Document, bool]:
    """The document ``id``, and whether it was made by this call: of what ``make`` gives, if there is none yet.

    ``make`` must give something random, since by its data a write whose answer was lost is known again. Raises
    Conflict (others tried to make it and nobody has, as can be on a cluster), Unavailable, Unknown, and what ``make``
    raises. Cancelled: the document is there or not.
    """
    found = await documents.get(id)
    if found is not None:
        return found, False
    data = await make()
    try:
        return await documents.create_once(Document(id, data)), True
    except (Conflict, Unknown) as failure:
        found = await documents.get(id)
        if found is None:
            raise
        return found, isinstance(failure, Unknown) and found.data == data
