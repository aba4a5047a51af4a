"""A long history beside a small project: what years of nightly runs of many pipelines leave behind."""
