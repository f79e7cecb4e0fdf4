"""The main job on one machine: two real models, a gateway, a mixed workload, and the bill."""
