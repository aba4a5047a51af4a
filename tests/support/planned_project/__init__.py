"""A project whose declarations and code the tests of plans change."""
