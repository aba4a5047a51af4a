"""The precompute store of a pipeline."""

from typing import TYPE_CHECKING

import dagster as dg

from resources.settings import SettingsResource

if TYPE_CHECKING:
    from forecache.store import Store


class StoreResource(dg.ConfigurableResource):
    """Opens stores by pipeline name; publishing and its versions are the store's own business."""

    settings: SettingsResource

    def open(self, pipeline_name: str) -> "Store":
        from forecache.store import open_store

        return open_store(self.settings.load(), pipeline_name)
