"""Published checkpoints of other programs as flows of this one, without running their pickles."""

from flow_apps.importing.folder import (
    Imported,
    import_checkpoint,
    is_imported,
    load_imported,
)
from flow_apps.importing.images import imported_images
from flow_apps.importing.layouts import LAYOUTS
from flow_apps.importing.reading import Published, read_published

__all__ = [
    "LAYOUTS",
    "Imported",
    "Published",
    "import_checkpoint",
    "imported_images",
    "is_imported",
    "load_imported",
    "read_published",
]
