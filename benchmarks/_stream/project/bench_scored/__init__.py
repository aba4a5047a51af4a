"""The benchmark's project of payments that are scored one by one."""
