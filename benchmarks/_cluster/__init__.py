"""A cluster on one machine: servers that a company has, and machines with empty disks that share nothing else."""
