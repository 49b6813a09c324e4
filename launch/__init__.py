"""Starts training: in processes here, under SLURM, on Cloud TPU VMs, on GKE. See `python -m launch --help`."""
