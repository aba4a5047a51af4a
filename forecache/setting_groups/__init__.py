"""The settings by what they are for, each group a class; `forecache.settings.Settings` is all of them."""
