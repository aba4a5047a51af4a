"""A release as a service of BentoML: the same model, transform and stores, without deadline and ladder."""
