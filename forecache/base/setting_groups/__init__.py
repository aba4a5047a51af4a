"""Groups of settings, each a class; `forecache.base.settings.Settings` combines them."""
