"""One GPU in one shot: what is checked and measured there, and the plan of the minutes (`scripts/gpu_check`)."""
