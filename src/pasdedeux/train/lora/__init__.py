"""LoRA fine-tuning of a set of experts: each with its own layers, optimiser, average and steps, in one run."""
