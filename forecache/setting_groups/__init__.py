"""Groups of settings, each a class; `forecache.settings.Settings` combines them."""
